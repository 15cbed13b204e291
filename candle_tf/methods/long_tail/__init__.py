"""Published long-tail methods, one file each, for the same student and trainer as CANDLE."""

"""Speed, shown as ratios of two sides that are timed in turn on the same machine state."""

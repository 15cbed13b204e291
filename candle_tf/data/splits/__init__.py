"""Which image is in which subset: long-tailed profiles, saved splits, duplicates."""

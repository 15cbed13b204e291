"""Figures of runs: each function takes plain arrays and returns a Matplotlib figure."""

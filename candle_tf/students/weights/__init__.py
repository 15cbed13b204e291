"""Weights that a student begins with: shipped, a run's own, larq-zoo's or PyTorch's."""

"""Implementations of the binary convolution in training."""

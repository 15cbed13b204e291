"""Implementations of the binary convolution in training, one file each."""

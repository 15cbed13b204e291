"""Weights files of several kinds, read without running anything that is in them."""

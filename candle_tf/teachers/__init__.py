"""Frozen, pretrained full-precision networks, their features and targets."""

"""Augmentations: each samples its parameters from seed, image and view, and applies them."""

"""Frozen, pretrained full-precision networks and the answers they give."""

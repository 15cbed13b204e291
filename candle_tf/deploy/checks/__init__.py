"""Checks of exported files: binary, equal to Keras, as accurate."""

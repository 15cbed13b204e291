"""Decoding, orientation and resizing of image files as TensorFlow graphs."""

"""A small server that speaks TensorFlow Serving's protocols, for trying an export locally."""

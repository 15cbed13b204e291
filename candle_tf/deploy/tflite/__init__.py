"""TFLite files for the Larq Compute Engine and for stock LiteRT."""

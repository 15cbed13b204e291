"""Tests mirror the package. Importing candle_tf first selects Keras 2 for every test module."""

import candle_tf  # noqa: F401

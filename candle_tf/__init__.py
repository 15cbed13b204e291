"""candle_tf: long-tailed recognition on binary networks (CANDLE, arXiv 2404.00285).

Importing the package chooses Keras 2 (the `tf-keras` package), which Larq needs. That choice
only takes effect when it is made before TensorFlow's Keras is first touched, so the package says
what to do when it comes too late.
"""

import importlib
import os
import sys
from typing import Any

__all__ = ["Model", "__version__", "load", "train"]  # types: __init__.pyi

__version__ = "0.1.0"

_KERAS_2 = "TF_USE_LEGACY_KERAS"

if "tensorflow" in sys.modules and os.environ.get(_KERAS_2, "").lower() not in ("1", "true"):
    raise ImportError(
        "candle_tf needs Keras 2, but TensorFlow was imported before candle_tf without "
        f"{_KERAS_2}=1: import candle_tf first, or set {_KERAS_2}=1 in the environment."
    )
os.environ[_KERAS_2] = "1"
# The C++ notices would bury our own messages; errors still come through as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def __getattr__(name: str) -> Any:
    """`load`, `train` and `Model` of `candle_tf.api`, imported when first asked for.

    TensorFlow takes seconds to start, and a mistyped flag must not wait for it.
    """
    if name == "train":
        # The program and the function share the name: the module can be called.
        return importlib.import_module("candle_tf.train")
    if name in ("load", "Model"):
        return getattr(importlib.import_module("candle_tf.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

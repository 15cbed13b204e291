"""candle_tf: long-tailed recognition on binary networks (CANDLE, arXiv 2404.00285).

    candle_tf.train(data_dir="flowers.zip", run_dir="runs/flowers")
    candle_tf.load("runs/flowers")      # a finished run or an export, as a Model
    candle_tf.Model                     # predict(), evaluate(), results, keras_model
    candle_tf.UserError                 # what is wrong with settings, files or images

`help(candle_tf.train)` and `help(candle_tf.Model)` say more. A training tells its stages and how
far it is after `absl.logging.set_verbosity(absl.logging.INFO)`.

Importing the package chooses Keras 2 (the `tf-keras` package), which Larq needs. That works after
`import tensorflow` too, as long as nothing has used `tf.keras`; later, the package says what to do.
"""

import importlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from candle_tf.runtime_messages import quiet_imports

__all__ = ["Model", "UserError", "__version__", "load", "train"]  # types: __init__.pyi

__version__ = "0.2.0"

_KERAS_2 = "TF_USE_LEGACY_KERAS"


def _choose_keras_2() -> None:
    """Makes `tf.keras` Keras 2.

    Raises:
        ImportError: where it is Keras 3 already.
    """
    tensorflow = sys.modules.get("tensorflow")
    if tensorflow is not None and os.environ.get(_KERAS_2, "").lower() not in ("1", "true"):
        if _has_loaded_keras(tensorflow):
            raise ImportError(
                "candle_tf needs Keras 2, but tf.keras was used before candle_tf was imported: "
                f"import candle_tf first, or set {_KERAS_2}=1 in the environment."
            )
        # TensorFlow reads the variable when `tf.keras` is first used. Where `import
        # tensorflow.keras` finds its files, it has chosen already.
        keras_2 = importlib.util.find_spec("tf_keras")
        if keras_2 is not None and keras_2.submodule_search_locations:
            folder = Path(keras_2.submodule_search_locations[0]) / "api" / "_v2"
            tensorflow.__path__ = [str(folder), *tensorflow.__path__[1:]]
    os.environ[_KERAS_2] = "1"


def _has_loaded_keras(tensorflow: ModuleType) -> bool:
    """Whether `tf.keras`, or one of its modules that TensorFlow names too, was used."""
    loaders = [
        getattr(vars(tensorflow).get(name), "__dict__", {}).get("_tfll_initialized", True)
        for name in ("keras", "losses", "metrics", "optimizers", "initializers")
    ]
    return "tensorflow.keras" in sys.modules or any(loaders)


_choose_keras_2()
# The C++ notices would bury our own messages; errors still come through as exceptions.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
quiet_imports()


def __getattr__(name: str) -> Any:
    """`load`, `train`, `Model` and `UserError`, imported when first asked for.

    TensorFlow takes seconds to start, and a mistyped flag must not wait for it.
    """
    if name == "train":
        # The program and the function share the name: the module can be called.
        return importlib.import_module("candle_tf.train")
    if name in ("load", "Model"):
        return getattr(importlib.import_module("candle_tf.api"), name)
    if name == "UserError":
        return importlib.import_module("candle_tf.errors").UserError
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

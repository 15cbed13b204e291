"""Keras's HDF5 weights files put into a model; nothing in them is executed.

load_h5(backbone, "resnet152_notop.h5", "ResNet152")
"""

import warnings
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.weight_files.checksums import unreadable
from candle_tf.weight_files.hdf5_check import check_hdf5

_V3_SUFFIX = ".weights.h5"


def load_h5(model: tf.keras.Model, path: str | Path, name: str) -> None:
    """Loads all weights of `model` from an HDF5 file written by Keras' `save_weights`.

    Both of Keras' layouts are read: the older one (`.h5`, also the weights of a whole-model
    `.h5` file) and the newer one (`.weights.h5`, of Keras 2 or 3). Only arrays are read: no
    model is rebuilt from the file, so nothing in it is executed.

    Args:
        model: a built model of the architecture the weights were saved from.
        path: the file; its name ends in `.weights.h5` exactly for the newer layout.
        name: what the user calls `model`, for messages.

    Raises:
        UserError: the file cannot be read, is no weights file, or does not fit `model`; the
            message quotes the first mismatch.
    """
    try:
        Path(path).open("rb").close()  # HDF5's own messages for a missing file are obscure
    except OSError as error:
        raise unreadable(path, error) from error
    try:
        check_hdf5(path)
        with h5py.File(path, "r") as file:
            newer = "layer_names" not in file.attrs and "model_weights" not in file
            arrays = _array_count(file)
        _check_suffix(path, newer)
        with warnings.catch_warnings():
            # Keras reads every attribute of a model, and warns of those it will remove.
            warnings.filterwarnings("ignore", message=".*will be removed in a future version")
            model.load_weights(str(path))
        _refuse_not_finite(model)
    # Whatever h5py and Keras raise is the file's damage, or it does not fit.
    except Exception as error:
        raise UserError(
            f"{path} does not hold the weights of {name}: {_first_line(error)}. Give the "
            "weights of the very architecture that is named."
        ) from error
    if newer and arrays != len(model.weights):
        raise UserError(
            f"{path} does not hold the weights of {name}: it has {arrays} arrays and the "
            f"model {len(model.weights)}. Give the weights of the very architecture that is named."
        )


def _refuse_not_finite(model: tf.keras.Model) -> None:
    for weight in model.weights:
        if weight.dtype.is_floating and not np.isfinite(weight.numpy()).all():
            raise ValueError(f"the weight {weight.name} holds NaN or infinity")


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def _check_suffix(path: str | Path, newer: bool) -> None:
    if newer != str(path).endswith(_V3_SUFFIX):
        # Keras chooses how to read the file by its name alone.
        raise ValueError(
            f"its content has Keras' {'newer' if newer else 'older'} layout, for which the file's "
            f"name {'must' if newer else 'must not'} end in {_V3_SUFFIX}: rename it"
        )


def _array_count(file: h5py.File) -> int:
    """Counts the arrays of a `.weights.h5` file that are weights."""
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if hasattr(item, "shape") else None)
    # Keras 3 also stores the state of Dropout's random number generators.
    return sum("seed_generator" not in name for name in names)

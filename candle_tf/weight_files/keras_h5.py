"""Keras's HDF5 weights files put into a model; nothing in them is executed.

load_h5(backbone, "resnet152_notop.h5", "ResNet152")
"""

import warnings
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.weight_files.checksums import unreadable

_V3_SUFFIX = ".weights.h5"
# Keras does not compress; weights of others shrink by less.
_MOST_COMPRESSION = 16


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
        with h5py.File(path, "r") as file:
            newer = "layer_names" not in file.attrs and "model_weights" not in file
            refuse_hostile_arrays(file, Path(path).stat().st_size)
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


def refuse_hostile_arrays(file: h5py.File, size: int) -> None:
    """Refuses arrays that are elsewhere, or of more numbers than a file can hold.

    Args:
        file: open.
        size: bytes of it on disk.

    Raises:
        ValueError: names the array.
    """
    stated = 0
    for name, group in _groups_of(file):
        for key in group:
            if isinstance(group.get(key, getlink=True), h5py.ExternalLink):
                raise ValueError(f"{name}{key} is a link to another file")
            item = group[key]
            if not isinstance(item, h5py.Dataset):
                continue
            if item.external or item.is_virtual:
                raise ValueError(f"the numbers of {name}{key} are in another file")
            stated += int(item.size or 0) * item.dtype.itemsize
            if stated > _MOST_COMPRESSION * size:
                raise ValueError(f"{name}{key} states more numbers than a file of {size} bytes has")


def _groups_of(file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
    """All groups, each once, with their names and "/"; links in circles end."""
    waiting, seen = [("", file)], set()
    while waiting:
        name, group = waiting.pop()
        identity = h5py.h5o.get_info(group.id).addr
        if identity in seen:
            continue
        seen.add(identity)
        yield name, group
        for key in group:
            if isinstance(group.get(key, getlink=True), h5py.HardLink) and isinstance(
                item := group[key], h5py.Group
            ):
                waiting.append((f"{name}{key}/", item))


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

"""Weights files: read, checked by sha256, put into a model; and the fingerprint of a model.

data = verified_bytes("efficientnet-lite0.pth", sha256="5793...")
load_h5(backbone, "resnet152_notop.h5", "ResNet152")
fingerprint(backbone)    # the same 64 hexadecimal digits for as long as no weight moves
"""

import hashlib
import warnings
from pathlib import Path

import h5py
import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.files import sha256_of_file

_V3_SUFFIX = ".weights.h5"


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's content, as 64 lower-case hexadecimal digits.

    Raises:
        UserError: `path` is missing, a directory or unreadable.
    """
    try:
        return sha256_of_file(Path(path))
    except OSError as error:
        raise _unreadable(path, error) from error


def verify(path: str | Path, sha256: str) -> None:
    """Compares a file's SHA-256 with the expected one, if there is one.

    Args:
        path: a weights file.
        sha256: 64 hexadecimal digits of either case, or "" to accept any content.

    Raises:
        UserError: `path` cannot be read, or its SHA-256 is another one.
    """
    found = sha256_of(path)
    _check_sha256(path, found, sha256)


def verified_bytes(path: str | Path, sha256: str = "") -> bytes:
    """Reads a weights file whole; what is returned is what was compared.

    Args:
        path: a weights file.
        sha256: 64 hexadecimal digits of either case, or "" to accept any content.

    Raises:
        UserError: `path` cannot be read, or its SHA-256 is another one.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from error
    _check_sha256(path, hashlib.sha256(data).hexdigest(), sha256)
    return data


def _check_sha256(path: str | Path, found: str, expected: str) -> None:
    if expected and found != expected.lower():
        raise UserError(
            f"Weights file {path} has sha256 {found}, but {expected} was expected: fetch the file "
            "again, or correct the expected value."
        )


def _unreadable(path: str | Path, error: OSError) -> UserError:
    return UserError(
        f"Cannot read the weights file {path} ({error.strerror or error}): give the path of an "
        "existing file."
    )


def fingerprint(model: tf.keras.Model) -> str:
    """SHA-256 over all weights of a built model, trainable or not, in the model's own order.

    Each weight counts with its position, its own name (such as "kernel"), type, shape and bits. The
    layers' names do not count: Keras numbers unnamed layers by how many a process has made, and
    a model must have one fingerprint in every process.
    """
    digest = hashlib.sha256()
    for position, weight in enumerate(model.weights):
        value = np.ascontiguousarray(weight.numpy())
        name = weight.name.rsplit("/", 1)[-1]
        # ascontiguousarray makes a scalar one-dimensional, so the shape is the variable's.
        digest.update(f"{position} {name} {value.dtype.str} {tuple(weight.shape)}\n".encode())
        digest.update(value.tobytes())
    return digest.hexdigest()


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
        raise _unreadable(path, error) from error
    try:
        with h5py.File(path, "r") as file:
            newer = "layer_names" not in file.attrs and "model_weights" not in file
            arrays = _array_count(file)
        _check_suffix(path, newer)
        with warnings.catch_warnings():
            # Keras reads every attribute of a model, and warns of those it will remove.
            warnings.filterwarnings("ignore", message=".*will be removed in a future version")
            model.load_weights(str(path))
    # What h5py and Keras raise for a damaged file and for one that does not fit.
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path} does not hold the weights of {name}: {_first_line(error)}. Give the "
            "weights of the very architecture that is named."
        ) from error
    if newer and arrays != len(model.weights):
        raise UserError(
            f"{path} does not hold the weights of {name}: it has {arrays} arrays and the "
            f"model {len(model.weights)}. Give the weights of the very architecture that is named."
        )


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

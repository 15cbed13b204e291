"""SHA-256 of weights files, and the fingerprint of a model.

data = verified_bytes("efficientnet-lite0.pth", sha256="5793...")
fingerprint(backbone)    # the same 64 hexadecimal digits for as long as no weight moves
"""

import hashlib
from pathlib import Path

import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.files import sha256_of_file


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file's content, as 64 lower-case hexadecimal digits.

    Raises:
        UserError: `path` is missing, a directory or unreadable.
    """
    try:
        return sha256_of_file(Path(path))
    except OSError as error:
        raise unreadable(path, error) from error


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
        raise unreadable(path, error) from error
    _check_sha256(path, hashlib.sha256(data).hexdigest(), sha256)
    return data


def _check_sha256(path: str | Path, found: str, expected: str) -> None:
    if expected and found != expected.lower():
        raise UserError(
            f"Weights file {path} has sha256 {found}, but {expected} was expected: fetch the file "
            "again, or correct the expected value."
        )


def unreadable(path: str | Path, error: OSError) -> UserError:
    """The message for a weights file that cannot be opened."""
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

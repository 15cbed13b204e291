"""classifier.safetensors of a run: the student's classifier as it was measured.

Of methods that change it after training (`AdjustedCheckpoints`), whose checkpoints hold what was
trained. safetensors holds arrays and text alone, so nothing in a file is run.

write_classifier(path, epoch=25, classifier)
epoch, classifier = read_classifier(path)
"""

import hashlib
from pathlib import Path

import numpy as np
import safetensors.numpy
from safetensors import SafetensorError, safe_open

from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.methods.method import Classifier

_ARRAYS = {"kernel": 2, "bias": 1}
_EPOCH, _SHA256 = "epoch", "sha256"


def write_classifier(path: Path, epoch: int, classifier: Classifier) -> None:
    """Writes the file.

    Args:
        path: of the file.
        epoch: of the weights, counted from 1.
        classifier: float32.

    Raises:
        UserError: where it cannot be written.
    """
    arrays = {"kernel": classifier.kernel, "bias": classifier.bias}
    facts = {_EPOCH: str(epoch), _SHA256: _digest(epoch, arrays)}
    write_atomically(path, safetensors.numpy.save(arrays, facts))


def read_classifier(path: Path) -> tuple[int, Classifier]:
    """Reads what `write_classifier` wrote.

    Returns:
        The epoch, counted from 1, and the classifier.

    Raises:
        UserError: where the file is missing or damaged.
    """
    if not path.exists():
        raise UserError(
            f"{path}, the student's classifier as it was measured, is missing: the run is of a "
            f"version that did not write it. {REMEDY}"
        )
    try:
        with safe_open(path, "np") as file:
            facts = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        epoch = int(facts[_EPOCH])
        if facts[_SHA256] != _digest(epoch, arrays):
            raise ValueError("its contents do not match its checksum")
    except (SafetensorError, OSError, KeyError, ValueError, TypeError) as error:
        raise UserError(f"{path} is damaged ({error}). {REMEDY}") from error
    return epoch, Classifier(arrays["kernel"], arrays["bias"])


REMEDY = (
    "Start the run by the same command again: it writes the file from the checkpoints, without "
    "training."
)


def _digest(epoch: int, arrays: dict[str, np.ndarray]) -> str:
    """SHA-256 of the epoch, and of each array's type, shape and values."""
    digest = hashlib.sha256(str(epoch).encode())
    for name in _ARRAYS:
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode())
        digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    return digest.hexdigest()

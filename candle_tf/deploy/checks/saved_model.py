"""Checks a SavedModel as a server runs it: in a process with TensorFlow alone.

check_saved_model(folder, pixels, logits, images)
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from candle_tf.deploy.checks.agreement import ROUNDING, Agreement, check_agreement
from candle_tf.deploy.checks.errors import ExportError

# Images in a call of the SavedModel: the same graph rounds alike on batches of the same size.
BATCH_SIZE = 64
# Scores below this are compared as if they were this: float32 ends a little further down.
_MIN_SCORE = 1e-30
# Given to Python as standard input: neither this folder nor candle_tf's is on its import path then.
_PROGRAM = Path(__file__).with_name("run_saved_model.py")


def check_saved_model(
    directory: str | Path,
    pixels: np.ndarray,
    expected: np.ndarray,
    images: np.ndarray,
    what: str = "",
) -> Agreement:
    """Runs a SavedModel in a process with TensorFlow alone, and compares it with the student.

    The signature "pixels" is compared with the student; "serving_default", which gets the images
    as PNG files, with "pixels": it has to come to the same pixels, scores and names by itself.

    Args:
        directory: the numbered folder.
        pixels: uint8 `[N, H, W, 3]`, the images at the student's input size.
        expected: the student's logits for them, float `[N, classes]`.
        images: uint8 `[N, side, side, 3]`, the same before they were resized for the student.
        what: how messages call it; the folder where none is given.

    Returns:
        The agreement of the scores' logarithms with those of the logits' softmax: the scores of a
        confident student are all but 0 and 1, and would hide a difference.

    Raises:
        ExportError: where the SavedModel cannot be run without larq and this package, its
            signatures disagree, or `check_agreement` refuses.
    """
    directory = Path(directory)
    what = what or str(directory)
    outputs = _run_in_stock_tensorflow(directory, pixels, images, what)
    agreement = check_agreement(_log_softmax(expected), _log(outputs["all_scores"]), what)
    _refuse_other_best(directory, outputs, what)
    return agreement


def _refuse_other_best(directory: Path, outputs: dict[str, np.ndarray], what: str) -> None:
    """Both signatures run the same network on the same pixels, in batches of the same size."""
    scores, ids = outputs["scores"], outputs["class_ids"]
    of_pixels = np.take_along_axis(outputs["all_scores"], ids, axis=1)
    best = -np.sort(-outputs["all_scores"], axis=1)[:, : ids.shape[1]]
    differences = np.maximum(np.abs(scores - of_pixels), np.abs(scores - best)).max(axis=1)
    if not (differences <= ROUNDING).all():
        raise ExportError(
            f"{what}: of {len(scores)} images given as files, "
            f"{int((~(differences <= ROUNDING)).sum())} get other scores than as pixels (by up to "
            f"{differences.max():.1e}): give the export the side that images are stretched to."
        )
    labels = np.array((directory / "assets" / "labels.txt").read_bytes().split(b"\n")[:-1])
    if not np.array_equal(outputs["class_names"], labels[ids]):
        raise ExportError(f"{what}: its class names are not those of assets/labels.txt.")


def _log_softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits.astype(np.float64) - logits.max(axis=-1, keepdims=True))
    return _log(powers / powers.sum(axis=-1, keepdims=True))


def _log(scores: np.ndarray) -> np.ndarray:
    return np.log(np.maximum(scores, _MIN_SCORE))


def _run_in_stock_tensorflow(
    directory: Path, pixels: np.ndarray, images: np.ndarray, what: str
) -> dict[str, np.ndarray]:
    # Importing candle_tf has set this here; stock TensorFlow runs without.
    environment = {name: os.environ[name] for name in os.environ if name != "TF_USE_LEGACY_KERAS"}
    with tempfile.TemporaryDirectory() as exchange:
        np.save(f"{exchange}/pixels.npy", pixels)
        np.save(f"{exchange}/images.npy", images)
        process = subprocess.run(
            [sys.executable, "-", str(directory.resolve()), str(BATCH_SIZE)],
            input=_PROGRAM.read_text(),
            cwd=exchange,
            env=environment,
            text=True,
            capture_output=True,
            check=False,
        )
        if process.returncode != 0:
            reason = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise ExportError(f"{what} does not run in stock TensorFlow ({reason}).")
        with np.load(f"{exchange}/outputs.npz") as outputs:
            return dict(outputs)

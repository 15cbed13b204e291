"""Fourth stage: measure the teacher and the student on the test set, after every choice is made.

What the student predicts of the validation images is computed, too: tables that choose settings
compare runs image by image.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.pipeline import evaluation_batches
from candle_tf.data.subset import Subset
from candle_tf.methods.adjusted_checkpoints import AdjustedCheckpoints
from candle_tf.metrics import Metrics, evaluate_logits
from candle_tf.stages.calibrate import Calibrated
from candle_tf.stages.prepare import Data
from candle_tf.stages.prior_correction import correct_validation_logits, corrects_prior
from candle_tf.stages.train import Trained


@dataclass(frozen=True)
class Evaluation:
    """What was measured on the test set.

    Attributes:
        results: by model: "teacher" (with a teacher), "student_last_epoch" and "student", the one
            of the selected epoch, which is the one to be exported.
        selected_epoch, last_epoch: counted from 1.
        selection: why the selected epoch was selected.
        pixels: the test images as the student gets them, uint8 `[N, S, S, 3]`.
        logits: the student's logits for them at the selected epoch, float32 `[N, C]`.
        validation_predictions: its classes for the validation images, int `[V]`. Where these are
            what the classifier is corrected by, each is corrected by the others.
    """

    results: dict[str, Metrics]
    selected_epoch: int
    last_epoch: int
    pixels: np.ndarray
    logits: np.ndarray
    validation_predictions: np.ndarray
    selection: str = ""


def measure(data: Data, logits: np.ndarray) -> Metrics:
    """Metrics of logits for the test images, float `[N, C]`."""
    return evaluate_logits(logits, data.test.labels, data.groups, data.split.class_names)


def evaluate(
    config: Config, data: Data, trained: Trained, calibrated: Calibrated | None
) -> Evaluation:
    """Measures the teacher, and the student at its last and at its selected epoch.

    The student is restored to each of the two: what comes after must restore the epoch it needs.

    Args:
        config: the run's settings.
        data: the prepared split.
        trained: the student and its checkpoints.
        calibrated: the teacher, for --method=candle.

    Raises:
        UserError: for a damaged checkpoint.
    """
    pixels = read_pixels(data.test, config.student.image_size)
    results = {"teacher": measure(data, calibrated.test_logits)} if calibrated else {}

    last = trained.checkpoints.epochs_done
    trained.checkpoints.restore(last)
    logits = logits_of(trained.student, pixels)
    results["student_last_epoch"] = measure(data, logits)
    selected = trained.checkpoints.restore_selected(
        config.training.select_epoch, data.validation_counts
    )
    if selected.epoch != last:
        logits = logits_of(trained.student, pixels)
    results["student"] = measure(data, logits)
    return Evaluation(
        results,
        selected.epoch,
        last,
        pixels,
        logits,
        _validation_predictions(config, data, trained),
        selected.reason,
    )


def read_pixels(subset: Subset, image_size: int) -> np.ndarray:
    """All images of a subset as the student gets them.

    Args:
        subset: the images.
        image_size: side of the student's input.

    Returns:
        uint8 `[N, S, S, 3]`.
    """
    # Filled batch by batch: in float32 the images of a large test set need not fit into memory.
    pixels = np.empty((len(subset), image_size, image_size, 3), np.uint8)
    start = 0
    for batch in evaluation_batches(subset, image_size=image_size):
        inputs = batch["inputs"].numpy()
        pixels[start : start + len(inputs)] = inputs
        start += len(inputs)
    return pixels


def _validation_predictions(config: Config, data: Data, trained: Trained) -> np.ndarray:
    """Batch by batch: a validation set's images, and its logits, need not fit into memory."""
    if not len(data.validation):
        return np.zeros(0, np.int64)
    checkpoints = trained.checkpoints
    logits: Iterable[np.ndarray]
    if isinstance(checkpoints, AdjustedCheckpoints) and corrects_prior(config):
        logits = correct_validation_logits(config, data, trained.student, checkpoints.bias_change)
    else:
        batches = evaluation_batches(data.validation, image_size=config.student.image_size)
        logits = (logits_of(trained.student, batch["inputs"].numpy()) for batch in batches)
    return np.concatenate([each.argmax(axis=1) for each in logits])


def logits_of(student: tf.keras.Model, pixels: np.ndarray) -> np.ndarray:
    """The student's logits, float32 `[N, C]`, for pixels uint8 `[N, S, S, 3]`."""
    return student.predict(pixels, batch_size=128, verbose=0)["logits"]

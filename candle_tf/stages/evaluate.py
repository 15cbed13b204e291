"""Fourth stage: the test set, looked at once, after every choice was made."""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.pipeline import evaluation_batches
from candle_tf.metrics import Metrics, evaluate_logits
from candle_tf.stages.calibrate import Calibrated, restore_selected
from candle_tf.stages.prepare import Data
from candle_tf.stages.train import Trained


@dataclass(frozen=True)
class Evaluation:
    """What was measured on the test set.

    Attributes:
        results: by model: "teacher" (with a teacher), "student_last_epoch" and "student", the one
            of the selected epoch, which is the one that is exported.
        selected_epoch, last_epoch: counted from 1.
        pixels: the test images as the student sees them, uint8 [N, S, S, 3].
        logits: the selected student's answers to them, float32 [N, C].
    """

    results: dict[str, Metrics]
    selected_epoch: int
    last_epoch: int
    pixels: np.ndarray
    logits: np.ndarray


def measure(data: Data, logits: np.ndarray) -> Metrics:
    """Metrics of logits for the test images, float [N, C]."""
    return evaluate_logits(logits, data.test.labels, data.groups, data.split.class_names)


def evaluate(
    config: Config, data: Data, trained: Trained, calibrated: Calibrated | None
) -> Evaluation:
    """Measures teacher and student, and leaves the student at the selected epoch."""
    batches = evaluation_batches(data.test, image_size=config.image_size)
    pixels = np.concatenate([batch["inputs"].numpy() for batch in batches]).astype(np.uint8)
    results = {"teacher": measure(data, calibrated.test_logits)} if calibrated else {}

    checkpoints = trained.checkpoints
    checkpoints.restore(checkpoints.epochs_done)
    logits = logits_of(trained.student, pixels)
    results["student_last_epoch"] = measure(data, logits)
    selected = restore_selected(checkpoints, config.select_epoch)
    if selected != checkpoints.epochs_done:
        logits = logits_of(trained.student, pixels)
    results["student"] = measure(data, logits)
    return Evaluation(results, selected, checkpoints.epochs_done, pixels, logits)


def logits_of(student: tf.keras.Model, pixels: np.ndarray) -> np.ndarray:
    """The student's logits, float32 [N, C], for pixels uint8 [N, S, S, 3]."""
    return student.predict(pixels, batch_size=128, verbose=0)["logits"]

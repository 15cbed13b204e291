"""CANDLE's third loss, on labels: its weight, and balanced softmax under any sampler.

Balanced softmax corrects for how often each class is shown. That is the class's share of the
images under the sampler "instance" alone; others show the classes alike, or more so.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods.losses import cross_entropy
from candle_tf.methods.method import StepLoss
from candle_tf.metrics import SCORE


@dataclass(frozen=True, eq=False)
class LabelLoss:
    """A third loss, on labels.

    Attributes:
        of_examples: see `method.StepLoss`.
        weight: in [0, 1]; the total loss of the distillation has the rest. A variable where it
            changes in the training, see `AdaptLabelWeight`.
        steps: of the whole training.
    """

    of_examples: StepLoss
    weight: float | tf.Variable
    steps: int


def automatic_label_weight(accuracy: float, classes: int) -> float:
    """How much of the total loss is on labels: 0 for a perfect teacher, 1 for one at chance.

    w = (1 - a) / (1 - 1 / C), at most 1.

    Args:
        accuracy: a, of the calibrated teacher on validation images, mean over classes, 0..1.
        classes: C.
    """
    return min(1.0, (1.0 - accuracy) / (1.0 - 1.0 / classes)) if classes > 1 else 0.0


def adapted_label_weight(teacher: float, student: float, classes: int) -> float:
    """How much of the total loss is on labels, by what the student is worth so far, too.

    w = t^2 / (t^2 + s^2) for errors t of the teacher and s of the student: of two estimates with
    independent errors, these weights of the second and the first have the smallest squared error.
    At least `automatic_label_weight`, as a student that has learned nothing says nothing.

    Args:
        teacher: accuracy of the calibrated teacher on validation images, mean over classes, 0..1.
        student: the student's.
        classes: C.
    """
    of_teacher, of_student = (1.0 - teacher) ** 2, (1.0 - student) ** 2
    both = of_teacher + of_student
    # Without an error of either it does not matter who teaches.
    return max(automatic_label_weight(teacher, classes), of_teacher / both if both else 0.0)


class AdaptLabelWeight(tf.keras.callbacks.Callback):
    """Raises the weight of the labels after each epoch as the student comes up to its teacher.

    Args:
        weight: float32 scalar; a checkpoint of the trainer holds it.
        teacher: as of `adapted_label_weight`.
        classes: C.
    """

    def __init__(self, weight: tf.Variable, teacher: float, classes: int) -> None:
        super().__init__()
        self._weight, self._teacher, self._classes = weight, teacher, classes

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:  # noqa: ARG002
        accuracy = (logs or {}).get(SCORE)
        if accuracy is not None:
            adapted = adapted_label_weight(self._teacher, float(accuracy), self._classes)
            # Never less than after an earlier epoch: accuracies vary from one to the next.
            self._weight.assign(max(float(self._weight.numpy()), adapted))


def balanced_softmax_of_epochs(shares: np.ndarray, steps: int, unit: float) -> StepLoss:
    """Cross-entropy under p_c * exp(z_c), p the classes' shares of the epoch that a step is of.

    Source: Ren et al., NeurIPS 2020, eq. 4, where p_c is n_c / N.

    Args:
        shares: of the classes among the images of each epoch, float `[E, C]`, rows sum to 1; a
            class with a share of 0 has no label.
        steps: of all epochs, a multiple of E.
        unit: what the loss is divided by, above 0.
    """
    epochs = len(shares)
    # The log of 0 would be NaN in a gradient.
    log_shares = np.log(np.maximum(shares, np.finfo(np.float32).tiny))

    def loss(logits: tf.Tensor, labels: tf.Tensor, progress: tf.Tensor) -> tf.Tensor:
        # The fraction is rounded: times E it may be below an epoch's number at its first step.
        step = tf.cast(tf.round(progress * steps), tf.int64)
        epoch = tf.minimum(step // (steps // epochs), epochs - 1)
        return cross_entropy(logits + tf.constant(log_shares, logits.dtype)[epoch], labels) / unit

    return loss

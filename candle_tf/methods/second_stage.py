"""The second stage of a `method.TwoStageMethod`: the classifier alone, on a frozen network.

trainer = ClassifierTrainer(student, classes, loss, scale_only=False, rate=1e-3)
fit(trainer, ...)
trainer.apply_scale()            # into the student's classifier, where it was learned
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from candle_tf.methods.baselines import label_losses
from candle_tf.methods.calibration import ScaledLogits
from candle_tf.methods.optimizers import Rate, adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.trainer import TOTAL_LOSS, Batch, Trainer


def reset_classifier(student: tf.keras.Model, seed: int) -> None:
    """New weights for the layer "logits": Glorot's, and a bias of 0."""
    classifier = student.get_layer("logits")
    initializer = tf.keras.initializers.GlorotUniform(seed)
    classifier.kernel.assign(initializer(classifier.kernel.shape))
    classifier.bias.assign(tf.zeros_like(classifier.bias))


class ClassifierTrainer(Trainer):
    """Trains the layer "logits" of a student, or a factor of each class, and nothing else.

    The student runs as in evaluation, so its batch-norm statistics stay as they are.

    Args:
        student: from inputs to "features" `[B, d_S]` and "logits" `[B, C]`.
        classes: C.
        loss: (logits `[B, C]`, labels `[B]`) -> `[B]`.
        scale_only: learn one factor per class (`ScaledLogits`); otherwise kernel and bias.
        rate: Adam's, a number or a schedule.
        xla: whether XLA compiles the training step.
    """

    def __init__(
        self,
        student: tf.keras.Model,
        classes: int,
        loss: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
        *,
        scale_only: bool,
        rate: Rate,
        xla: bool = False,
    ) -> None:
        scale: Any = ScaledLogits(name="weight_scaling")
        scale.build([None, classes])
        layer = scale if scale_only else student.get_layer("logits")
        groups = [ParameterGroup(layer.trainable_variables, adam(rate))]
        super().__init__(student, classes, groups, name="classifier_trainer", xla=xla)
        self.scale = scale
        self._loss = loss

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:  # noqa: ARG002
        """Scaled logits `[B, C]`; the student runs as in evaluation."""
        return self._logits(inputs)

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:  # noqa: ARG002
        """The total loss alone, the mean over the batch."""
        logits = self._logits(batch["inputs"])
        each = label_losses(lambda labels: self._loss(logits, labels), batch)
        return {TOTAL_LOSS: tf.reduce_mean(each)}

    def _logits(self, inputs: tf.Tensor) -> tf.Tensor:
        return self.scale(self.network(inputs, training=False)["logits"])

    def apply_scale(self) -> None:
        """Multiplies the student's classifier by the factors: one dense layer is exported."""
        classifier = self.network.get_layer("logits")
        factors = tf.exp(self.scale.log_scale)
        classifier.kernel.assign(classifier.kernel * factors)
        classifier.bias.assign(classifier.bias * factors)

"""Baselines on the same student, views, epochs and trainer as CANDLE.

A loss on labels (`SupervisedTrainer`), one with settings, a schedule or cosines
(`LabelMethodTrainer`), or distillation of logits (`LogitDistillationTrainer`); contrastive ones are
in `contrastive`. To add one, write it in a file of its own and give it a line in
`registry.METHODS`.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf

from candle_tf.methods.method import DistillationLosses, StepLoss
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.trainer import TOTAL_LOSS, Batch, Trainer

# (logits [B, C], labels [B], training counts [C]) -> loss of each example [B]
Loss = Callable[[tf.Tensor, tf.Tensor, np.ndarray], tf.Tensor]


def label_losses(loss: Callable[[tf.Tensor], tf.Tensor], batch: Batch) -> tf.Tensor:
    """The losses of a batch's labels, float `[B]`.

    Where images are mixed, batches hold "partner_labels" int `[B]` and "ratios" float `[B]`, and an
    example's loss is ratio * loss(labels) + (1 - ratio) * loss(partner_labels).

    Args:
        loss: of labels `[B]`, float `[B]`.
        batch: with "labels".
    """
    each = loss(batch["labels"])
    if "ratios" in batch:
        of_partners = loss(batch["partner_labels"])
        each = batch["ratios"] * each + (1.0 - batch["ratios"]) * of_partners
    return each


class SupervisedTrainer(Trainer):
    """Trains a network on labels alone; mixed images as in `label_losses`.

    Args:
        network: from inputs to a dictionary with "logits" `[B, C]`.
        loss: of `registry.METHODS`, or another function of the same signature.
        counts: training images of each class, int `[C]`.
        parameter_groups: of the network's trainable variables.
        xla: whether XLA compiles the training step.
    """

    def __init__(
        self,
        network: tf.keras.Model,
        loss: Loss,
        counts: np.ndarray,
        parameter_groups: Sequence[ParameterGroup],
        xla: bool = False,
    ) -> None:
        super().__init__(network, len(counts), parameter_groups, name="supervised_trainer", xla=xla)
        self._loss = loss
        self._counts = counts

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The total loss alone, the mean over the batch."""
        logits = self.forward(batch["inputs"], training)["logits"]
        each = label_losses(lambda labels: self._loss(logits, labels, self._counts), batch)
        return {TOTAL_LOSS: tf.reduce_mean(each)}


class LabelMethodTrainer(Trainer):
    """Trains a student by a `method.LabelMethod`; mixed images as in `label_losses`.

    Args:
        student: from inputs to "features" `[B, d_S]` and "logits" `[B, C]`, which a dense layer
            "logits" makes of them.
        classes: C.
        loss: see `method.StepLoss`.
        parameter_groups: of the student's trainable variables.
        steps: of the whole training.
        cosine: whether loss and validation get cosines for logits.
        validation_scale: what validation multiplies its logits or cosines by, above 0.
        xla: whether XLA compiles the training step.
    """

    def __init__(
        self,
        student: tf.keras.Model,
        classes: int,
        loss: StepLoss,
        parameter_groups: Sequence[ParameterGroup],
        *,
        steps: int,
        cosine: bool = False,
        validation_scale: float = 1.0,
        xla: bool = False,
    ) -> None:
        super().__init__(student, classes, parameter_groups, name="supervised_trainer", xla=xla)
        self._loss = loss
        self._steps = steps
        self._cosine = cosine
        self._validation_scale = validation_scale

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Logits or cosines `[B, C]` of inputs, times the scale of validation."""
        return self._validation_scale * self._logits(self.forward(inputs, training))

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The total loss alone, the mean over the batch."""
        logits = self._logits(self.forward(batch["inputs"], training))
        progress = tf.cast(self.optimizer.iterations, tf.float32) / self._steps
        each = label_losses(lambda labels: self._loss(logits, labels, progress), batch)
        return {TOTAL_LOSS: tf.reduce_mean(each)}

    def _logits(self, outputs: Mapping[str, tf.Tensor]) -> tf.Tensor:
        if not self._cosine:
            return outputs["logits"]
        classifier = self.network.get_layer("logits")
        unit = tf.math.l2_normalize(outputs["features"], axis=-1)
        cosines = tf.matmul(unit, tf.math.l2_normalize(classifier.kernel, axis=0))
        # The bias has no effect, and a gradient of 0.
        return cosines + 0.0 * classifier.bias


class LogitDistillationTrainer(Trainer):
    """Trains a student by a `method.DistillationMethod`; mixed images as in `label_losses`.

    Batches hold "inputs", "labels" and "teacher_logits" float `[B, C]`.

    Args:
        student: from inputs to a dictionary with "logits" `[B, C]`.
        classes: C.
        losses: of labels and teacher.
        parameter_groups: of the student's trainable variables.
        xla: whether XLA compiles the training step.
    """

    def __init__(
        self,
        student: tf.keras.Model,
        classes: int,
        losses: DistillationLosses,
        parameter_groups: Sequence[ParameterGroup],
        xla: bool = False,
    ) -> None:
        super().__init__(student, classes, parameter_groups, name="logit_distillation", xla=xla)
        self._losses = losses

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The total loss, and its losses "label" and "kl", not weighed."""
        logits = self.forward(batch["inputs"], training)["logits"]
        of_labels = label_losses(lambda labels: self._losses.of_labels(logits, labels), batch)
        label = tf.reduce_mean(of_labels)
        kl = tf.reduce_mean(self._losses.of_teacher(batch["teacher_logits"], logits))
        weight = self._losses.label_weight
        return {TOTAL_LOSS: weight * label + (1.0 - weight) * kl, "label": label, "kl": kl}

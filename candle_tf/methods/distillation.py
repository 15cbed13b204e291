"""Distillation of a calibrated teacher into a binary student, balanced by an adversary (CANDLE).

One step, on a batch that carries the teacher's outputs:

    kl = mean T^2 KL(teacher logits || student logits)
    fs = mean 1 - cos(projector(student features), teacher features - their mean)
    L  = total_loss(kl, fs, lambda)           lambda = balancer(noise of this step)
    student, classifier, projector minimize L; the balancer maximizes it.

The teacher itself is not here, only its outputs, so no gradient can reach it.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import tensorflow as tf

from candle_tf.methods import losses
from candle_tf.methods.balance import Balancer, FixedBalance, TotalLoss
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.trainer import TOTAL_LOSS, Batch, Trainer


def mean_features(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of the teacher's features, float64 `[d_T]`, of blocks float `[n, d_T]`."""
    sums = [(block.sum(axis=0, dtype=np.float64), len(block)) for block in blocks]
    return np.sum([total for total, _ in sums], axis=0) / sum(count for _, count in sums)


def build_projector(
    student: tf.keras.Model, feature_size: int, seed: int = 0
) -> tf.keras.layers.Dense:
    """A dense layer, built, from the student's features `[B, d_S]` to `[B, d_T]`.

    Args:
        student: a model with the output "features".
        feature_size: d_T.
        seed: of the initial weights.
    """
    projector = tf.keras.layers.Dense(
        feature_size,
        kernel_initializer=tf.keras.initializers.GlorotUniform(seed),
        name="projector",
    )
    projector.build(student.output["features"].shape)
    return projector


class DistillationTrainer(Trainer):
    """CANDLE's second stage.

    Batches hold "inputs" and "labels" (used in validation only) and the teacher's outputs:
    "teacher_features" float `[B, d_T]` and "teacher_logits" float `[B, C]`.

    Args:
        student: from pixels to "features" `[B, d_S]` and "logits" `[B, C]`.
        classes: C.
        parameter_groups: of student, projector and balancer.
        projector: from student features to `[B, d_T]`, see `build_projector`.
        balancer: from the step's number to lambda.
        feature_mean: subtracted from the teacher's features before the cosine, float `[d_T]`.
        total_loss: of KL, FS and lambda.
        temperature: T of the KL loss.
        xla: whether XLA compiles the training step.
    """

    def __init__(
        self,
        student: tf.keras.Model,
        classes: int,
        parameter_groups: Sequence[ParameterGroup],
        *,
        projector: tf.keras.layers.Layer,
        balancer: Balancer | FixedBalance,
        feature_mean: np.ndarray,
        total_loss: TotalLoss,
        temperature: float,
        xla: bool = False,
    ) -> None:
        super().__init__(student, classes, parameter_groups, name="distillation_trainer", xla=xla)
        self.projector = projector
        self.balancer = balancer
        self._feature_mean = tf.constant(feature_mean, tf.float32)
        self._total_loss = total_loss
        self._temperature = temperature

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The total loss, its two losses "kl" and "fs", and "lambda"."""
        outputs = self.forward(batch["inputs"], training)
        kl = tf.reduce_mean(
            losses.kl_divergence(batch["teacher_logits"], outputs["logits"], self._temperature)
        )
        fs = tf.reduce_mean(
            losses.feature_distance(
                self.projector(outputs["features"]), batch["teacher_features"] - self._feature_mean
            )
        )
        lam = self.balancer(self.optimizer.iterations)
        return {TOTAL_LOSS: self._total_loss(kl, fs, lam), "kl": kl, "fs": fs, "lambda": lam}

"""Distillation of a calibrated teacher into a binary student, balanced by an adversary (CANDLE).

One step, on a batch that carries the teacher's stored answers:

    kl = mean T^2 KL(teacher logits || student logits)
    fs = mean 1 - cos(projector(student features), teacher features - their mean)
    L  = objective(kl, fs, lambda)            lambda = balancer(noise of this step)
    student, classifier, projector minimize L; the balancer maximizes it.

The teacher is not here at all, only its answers, so no gradient can reach it.
"""

from collections.abc import Iterable
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods import losses
from candle_tf.methods.balance import Balancer, Objective
from candle_tf.methods.trainer import Batch, ParameterGroup, Trainer


def mean_features(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of the teacher's features, float64 [d_T], of blocks float [n, d_T]."""
    sums = [(block.sum(axis=0, dtype=np.float64), len(block)) for block in blocks]
    return np.sum([total for total, _ in sums], axis=0) / sum(count for _, count in sums)


class DistillationTrainer(Trainer):
    """CANDLE's second stage.

    Batches hold "inputs" and "labels" (used in validation only) and the teacher's answers:
    "teacher_features" float [B, d_T] and "teacher_logits" float [B, C].

    Args:
        student: from pixels to "features" [B, d_S] and "logits" [B, C].
        classes: C.
        feature_mean: what is taken from the teacher's features before the cosine, float [d_T].
        objective: how the two terms and lambda become one number.
        temperature: T of the KL term.
        optimizer: of student and projector.
        balance_optimizer: of the balancer.
        fixed_lambda: a constant in place of the balancer.
        seed: of the projector's and balancer's initial weights and of the noise.
    """

    def __init__(
        self,
        student: tf.keras.Model,
        classes: int,
        feature_mean: np.ndarray,
        objective: Objective,
        temperature: float,
        optimizer: Any,
        balance_optimizer: Any,
        fixed_lambda: float | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(student, classes, name="distillation_trainer")
        self._feature_mean = tf.constant(feature_mean, tf.float32)
        self._objective = objective
        self._temperature = temperature
        self._optimizer = optimizer
        self._balance_optimizer = balance_optimizer
        self._fixed_lambda = fixed_lambda
        self.projector = tf.keras.layers.Dense(
            len(feature_mean),
            kernel_initializer=tf.keras.initializers.GlorotUniform(seed),
            name="projector",
        )
        self.projector.build(student.output["features"].shape)
        self.balancer = Balancer(seed)
        self.balancer.build([])

    def terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        outputs = self.network(batch["inputs"], training=training)
        kl = tf.reduce_mean(
            losses.kl_divergence(batch["teacher_logits"], outputs["logits"], self._temperature)
        )
        fs = tf.reduce_mean(
            losses.feature_distance(
                self.projector(outputs["features"]), batch["teacher_features"] - self._feature_mean
            )
        )
        lam = self._lambda()
        return {"objective": self._objective(kl, fs, lam), "kl": kl, "fs": fs, "lambda": lam}

    def _lambda(self) -> tf.Tensor:
        if self._fixed_lambda is not None:
            return tf.constant(self._fixed_lambda, tf.float32)
        return self.balancer(self._optimizer.iterations)

    def parameter_groups(self) -> list[ParameterGroup]:
        learners = self.network.trainable_variables + self.projector.trainable_variables
        descent = ParameterGroup(self._optimizer, learners)
        if self._fixed_lambda is not None:
            return [descent]
        adversary = self.balancer.trainable_variables
        return [descent, ParameterGroup(self._balance_optimizer, adversary, maximize=True)]

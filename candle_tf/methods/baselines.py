"""Baselines on the same student, views, epochs and trainer as CANDLE: one loss, no teacher.

To add one, write its loss and give it a line in `registry.METHODS`.
"""

from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.trainer import TOTAL_LOSS, Batch, Trainer

# (logits [B, C], labels [B], training counts [C]) -> loss of each example [B]
Loss = Callable[[tf.Tensor, tf.Tensor, np.ndarray], tf.Tensor]


class SupervisedTrainer(Trainer):
    """Trains a network on labels alone.

    Where images are mixed, batches hold "partner_labels" int `[B]` and "ratios" float `[B]`, and an
    example's loss is ratio * loss(labels) + (1 - ratio) * loss(partner_labels).

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
        each = self._loss(logits, batch["labels"], self._counts)
        if "ratios" in batch:
            of_partners = self._loss(logits, batch["partner_labels"], self._counts)
            each = batch["ratios"] * each + (1.0 - batch["ratios"]) * of_partners
        return {TOTAL_LOSS: tf.reduce_mean(each)}

"""Checkpoints of a method that changes its classifier once an epoch is trained."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods.trained_checkpoints import TrainedCheckpoints


class AdjustedCheckpoints(TrainedCheckpoints):
    """Every epoch is restored with its classifier adjusted; the files hold what was trained.

    Args:
        folder, trainer, network: as in `TrainedCheckpoints`.
        classifier: the dense layer of the network in `trainer`.
        adjust: changes the classifier, which is as it was trained; gives how strongly, where that
            is a number.

    Attributes:
        bias_change: of the classifier by its adjustment, float32 `[C]`; 0 before the first epoch
            is restored.
        strength: what `adjust` gave for the epoch that was restored last; None before that.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Any,
        network: tf.keras.Model,
        classifier: tf.keras.layers.Dense,
        adjust: Callable[[], float | None],
    ) -> None:
        super().__init__(folder, trainer, network)
        self._classifier, self._adjust = classifier, adjust
        self._adjusted: dict[int, tuple[list[np.ndarray], float | None]] = {}
        self.bias_change = np.zeros(classifier.units, np.float32)
        self.strength: float | None = None

    def restore(self, epoch: int) -> None:
        """As `TrainedCheckpoints.restore`; then adjusts the classifier."""
        super().restore(epoch)
        trained = self._classifier.bias.numpy()
        # Adjusted once: it may take a pass over many images.
        if epoch not in self._adjusted:
            strength = self._adjust()
            self._adjusted[epoch] = self._classifier.get_weights(), strength
        weights, self.strength = self._adjusted[epoch]
        self._classifier.set_weights(weights)
        self.bias_change = self._classifier.bias.numpy() - trained

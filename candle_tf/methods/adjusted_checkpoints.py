"""Checkpoints of a method that changes its classifier once an epoch is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods.annealing import AnnealedQuantizer, ExactSignCheckpoints


class AdjustedCheckpoints(ExactSignCheckpoints):
    """Every epoch is restored with its classifier adjusted; the files hold what was trained.

    Args:
        folder, trainer, quantizers: as in `ExactSignCheckpoints`.
        classifier: the dense layer of the network in `trainer`.
        adjust: changes the classifier, which is as it was trained.

    Attributes:
        bias_change: of the classifier by its adjustment, float32 `[C]`; 0 before the first epoch
            is restored.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Any,
        quantizers: Sequence[AnnealedQuantizer],
        classifier: tf.keras.layers.Dense,
        adjust: Callable[[], None],
    ) -> None:
        super().__init__(folder, trainer, quantizers)
        self._classifier, self._adjust = classifier, adjust
        self._adjusted: dict[int, list[np.ndarray]] = {}
        self.bias_change = np.zeros(classifier.units, np.float32)

    def restore(self, epoch: int) -> None:
        """As `ExactSignCheckpoints.restore`; then adjusts the classifier."""
        super().restore(epoch)
        trained = self._classifier.bias.numpy()
        # Adjusted once: it may take a pass over many images.
        if epoch in self._adjusted:
            self._classifier.set_weights(self._adjusted[epoch])
        else:
            self._adjust()
            self._adjusted[epoch] = self._classifier.get_weights()
        self.bias_change = self._classifier.bias.numpy() - trained

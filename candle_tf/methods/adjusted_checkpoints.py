"""Checkpoints of a method that changes its classifier once an epoch is trained."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from candle_tf.methods.annealing import AnnealedQuantizer, ExactSignCheckpoints


class AdjustedCheckpoints(ExactSignCheckpoints):
    """Every epoch is restored with its classifier adjusted; the files hold what was trained.

    Args:
        folder, trainer, quantizers: as in `ExactSignCheckpoints`.
        adjust: changes the classifier of the network in `trainer`, which is as it was trained.
    """

    def __init__(
        self,
        folder: Path,
        trainer: Any,
        quantizers: Sequence[AnnealedQuantizer],
        adjust: Callable[[], None],
    ) -> None:
        super().__init__(folder, trainer, quantizers)
        self._adjust = adjust

    def restore(self, epoch: int) -> None:
        """As `ExactSignCheckpoints.restore`; then adjusts the classifier."""
        super().restore(epoch)
        self._adjust()

"""What the pipeline asks of the teacher's outputs for training images (`teachers.targets`)."""

from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import numpy as np

from candle_tf.data.augment.views import Views


class Targets(Protocol):
    """The teacher's outputs, cached or computed in every step."""

    @property
    def feature_size(self) -> int:
        """d_T."""

    @property
    def classes(self) -> int:
        """C."""

    def batch(self, views: Views) -> dict[str, np.ndarray]:
        """Teacher outputs of B of the student's views.

        Returns:
            "teacher_features" float32 [B, d_T] and "teacher_logits" float32 [B, C], averaged over
            resolutions.
        """

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """Blocks of some thousand outputs that represent all of them, as `batch` gives them."""


@runtime_checkable
class MapTargets(Targets, Protocol):
    """Targets whose batches also hold "teacher_maps", float32 [B, P, D]."""

    @property
    def map_shape(self) -> tuple[int, int]:
        """(P, D): positions of all maps, and dimensions at each."""

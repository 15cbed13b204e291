"""What the frozen teacher says to the training images, as batches ask for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from candle_tf.data.augment.precomputed_views import FixedViews

_BLOCK = 4096


class Targets(Protocol):
    """Answers, stored (`Answers`) or computed when asked for (`teachers.online_targets`)."""

    @property
    def feature_size(self) -> int:
        """d_T."""

    @property
    def classes(self) -> int:
        """C."""

    def batch(self, index: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Answers for examples `index` at student views `numbers`, both int64 [B].

        Returns:
            "teacher_features" float32 [B, d_T] and "teacher_logits" float32 [B, C], averaged over
            resolutions.
        """

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """Answers that stand for all of them, in parts of some thousand, as `batch` gives them."""


@dataclass(frozen=True)
class Answers:
    """Stored answers: arrays or memory maps, of which no more is read than is asked for.

    Attributes:
        features: float16 [R, d_T], pooled, averaged over resolutions.
        logits: float16 [R, C], of the calibrated classifier.
        views: which image and view each of the R rows is of.
    """

    features: np.ndarray
    logits: np.ndarray
    views: FixedViews

    @property
    def feature_size(self) -> int:
        """d_T."""
        return self.features.shape[1]

    @property
    def classes(self) -> int:
        """C."""
        return self.logits.shape[1]

    def batch(self, index: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Answers for examples `index` at student views `numbers`; see `Targets.batch`."""
        return self._at(self.views.rows(index, numbers))

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """All answers, in the order of rows."""
        for start in range(0, self.views.total, _BLOCK):
            yield self._at(slice(start, start + _BLOCK))

    def _at(self, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
        return {
            "teacher_features": self.features[rows].astype(np.float32),
            "teacher_logits": self.logits[rows].astype(np.float32),
        }

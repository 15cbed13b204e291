"""How many fixed views each picture has, and which row of a cache holds which of them.

table = FixedViews(transform, views_by_class(counts, views=4, tail_views=16)[labels])
table.rows(index, table.in_turn(index, epoch=7))      # rows of what is seen in epoch 7
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from candle_tf.data.transforms import Transform


def views_by_class(counts: np.ndarray, views: int, tail_views: int = 0) -> np.ndarray:
    """K of each class: the fewer its pictures, the more fixed views of each.

    K_c = views * n_max / n_c, rounded and kept within [views, tail_views]: rare classes get as many
    different views in all as the largest class, as far as `tail_views` allows.

    Args:
        counts: training pictures of each class, int [C], at least 1.
        views: of a picture of the largest class, at least 1.
        tail_views: most that a picture may have; where it is below `views`, all have `views`.

    Returns:
        int64 [C].
    """
    counts = np.asarray(counts, np.float64)
    wanted = np.rint(views * counts.max() / counts).astype(np.int64)
    return np.clip(wanted, views, max(views, tail_views))


@dataclass(frozen=True)
class FixedViews:
    """Fixed views of N pictures, numbered from 0 for each, one row each, picture after picture.

    Attributes:
        transform: what the views are drawn with. Of `WHOLE`, view 0 is the whole picture and view
            1 its mirror image.
        counts: views of each picture, int64 [N], at least 1.
    """

    transform: Transform
    counts: np.ndarray

    @cached_property
    def offsets(self) -> np.ndarray:
        """First row of each picture, and the number of rows at the end, int64 [N + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @property
    def total(self) -> int:
        """R, rows in all."""
        return int(self.offsets[-1])

    def rows(self, index: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Rows of views `numbers` of pictures `index`, both [B]; numbers past K wrap."""
        return self.offsets[index] + numbers % self.counts[index]

    def in_turn(self, index: np.ndarray, epoch: int | np.ndarray) -> np.ndarray:
        """The views that pictures `index` are seen at in an epoch (or one each), int64 [B]."""
        return epoch % self.counts[index]

    def of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Picture and view number of rows, int64 [B] each."""
        pictures = np.searchsorted(self.offsets, rows, side="right") - 1
        return pictures, rows - self.offsets[pictures]

    def key(self) -> Mapping[str, Any]:
        """What tells these views from others, JSON-ready and of one size for any N."""
        counts = np.ascontiguousarray(self.counts, "<i8")
        return {
            "transform": asdict(self.transform),
            "pictures": len(self.counts),
            "rows": self.total,
            "counts": hashlib.sha256(counts.tobytes()).hexdigest(),
        }


def same_for_all(transform: Transform, pictures: int, views: int = 1) -> FixedViews:
    """As many views of each of so many pictures."""
    return FixedViews(transform, np.full(pictures, views, np.int64))

"""How many fixed views each image has, and which row of a cache holds which of them.

table = FixedViews(transform, views_by_class(counts, views=4, tail_views=16)[labels])
table.rows(index, table.in_turn(index, epoch=7))      # rows of what is seen in epoch 7
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np

from candle_tf.data.augment.transform import Transform


def views_by_class(counts: np.ndarray, views: int, tail_views: int = 0) -> np.ndarray:
    """K of each class: the fewer its images, the more fixed views of each.

    K_c = views * n_max / n_c, rounded and kept within [views, tail_views]: rare classes get as many
    different views in all as the largest class, as far as `tail_views` allows.

    Args:
        counts: training images of each class, int [C], at least 1.
        views: of an image of the largest class, at least 1.
        tail_views: most that an image may have; where it is below `views`, all have `views`.

    Returns:
        int64 [C].
    """
    counts = np.asarray(counts, np.float64)
    wanted = np.rint(views * counts.max() / counts).astype(np.int64)
    return np.clip(wanted, views, max(views, tail_views))


@dataclass(frozen=True)
class FixedViews:
    """Fixed views of N images, numbered from 0 for each, one row each, image after image.

    Attributes:
        transform: what the views are drawn with. Of `WHOLE`, view 0 is the whole image and view
            1 its mirror image.
        counts: views of each image, int64 [N], at least 1.
    """

    transform: Transform
    counts: np.ndarray

    @cached_property
    def offsets(self) -> np.ndarray:
        """First row of each image, and the number of rows at the end, int64 [N + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @property
    def total(self) -> int:
        """R, rows in all."""
        return int(self.offsets[-1])

    def rows(self, index: np.ndarray, numbers: np.ndarray) -> np.ndarray:
        """Rows of views `numbers` of images `index`, both [B]; numbers past K wrap."""
        return self.offsets[index] + numbers % self.counts[index]

    def in_turn(self, index: np.ndarray, epoch: int | np.ndarray) -> np.ndarray:
        """The views that images `index` are seen at in an epoch (or one each), int64 [B]."""
        return epoch % self.counts[index]

    def of_rows(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Image and view number of rows, int64 [B] each."""
        images = np.searchsorted(self.offsets, rows, side="right") - 1
        return images, rows - self.offsets[images]

    def key(self) -> Mapping[str, Any]:
        """What tells these views from others, JSON-ready and of one size for any N."""
        counts = np.ascontiguousarray(self.counts, "<i8")
        return {
            "transform": asdict(self.transform),
            "images": len(self.counts),
            "rows": self.total,
            "counts": hashlib.sha256(counts.tobytes()).hexdigest(),
        }


def same_for_all(transform: Transform, images: int, views: int = 1) -> FixedViews:
    """As many views of each of so many images."""
    return FixedViews(transform, np.full(images, views, np.int64))

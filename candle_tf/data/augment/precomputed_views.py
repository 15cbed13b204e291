"""How many views of each image are computed ahead, and which row of a cache holds which of them.

precomputed = PrecomputedViews(views_by_class(counts, views=4, tail_views=16)[labels])
views = precomputed.at_epoch(images, epoch=7)      # what is seen in epoch 7
precomputed.rows(views)                            # where a cache has them
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from candle_tf.data.augment.view_kinds import number_of_unmixed_views, unmixed_numbers
from candle_tf.data.augment.views import Views


def views_by_class(counts: np.ndarray, views: int, tail_views: int = 0) -> np.ndarray:
    """K of each class: the fewer its images, the more precomputed views of each.

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
class PrecomputedViews:
    """Views of N images, numbered from 0 for each; rows image after image, view after view.

    Attributes:
        counts: views of each image, int64 [N], at least 1.
        mirror: whether every view has a second row, of its mirror image, right after its own.
    """

    counts: np.ndarray
    mirror: bool = False

    @cached_property
    def offsets(self) -> np.ndarray:
        """Views before each image, and of all images at the end, int64 [N + 1]."""
        return np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64)

    @property
    def rows_per_view(self) -> int:
        """2 with mirror images, else 1."""
        return 2 if self.mirror else 1

    @property
    def total(self) -> int:
        """R, rows in all."""
        return self.rows_per_view * int(self.offsets[-1])

    def rows(self, views: Views) -> np.ndarray:
        """Row of each view, int64 [B]; numbers past an image's count wrap."""
        numbers = views.numbers % self.counts[views.images]
        return self.rows_per_view * (self.offsets[views.images] + numbers) + views.mirror

    def at_epoch(self, images: np.ndarray, epoch: int | np.ndarray, unmixed: bool = False) -> Views:
        """The views that images int64 [B] are seen at in an epoch (or one each), in turn.

        Args:
            images: of the views.
            epoch: from 0.
            unmixed: takes the unmixed ones of `view_kinds` alone.
        """
        if unmixed:
            places = epoch % number_of_unmixed_views(self.counts[images])
            return Views(images, unmixed_numbers(places))
        return Views(images, epoch % self.counts[images])

    def of_rows(self, rows: np.ndarray) -> Views:
        """The view of each row, int64 [B]."""
        places, copies = np.divmod(rows, self.rows_per_view)
        images = np.searchsorted(self.offsets, places, side="right") - 1
        return Views(images, places - self.offsets[images], copies == 1)

    def key(self) -> Mapping[str, Any]:
        """What tells these rows from others, JSON-ready and of one size for any N."""
        counts = np.ascontiguousarray(self.counts, "<i8")
        return {
            "images": len(self.counts),
            "rows": self.total,
            "counts": hashlib.sha256(counts.tobytes()).hexdigest(),
            "mirror": self.mirror,
        }


def same_for_all(images: int, views: int = 1, mirror: bool = False) -> PrecomputedViews:
    """As many views of each of so many images."""
    return PrecomputedViews(np.full(images, views, np.int64), mirror)

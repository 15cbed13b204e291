"""Which views of which images: the index type of everything that renders, caches or batches views.

views = Views(np.array([4, 7]), np.array([0, 3]))      # view 0 of image 4, view 3 of image 7
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Views:
    """B views of the images of a subset.

    Attributes:
        images: place of each image in the subset, int64 [B].
        numbers: which view of it, from 0, int64 [B]; each number has its own random numbers.
        mirror: whether the view is mirrored (left and right) after all else, bool or bool [B].
    """

    images: np.ndarray
    numbers: np.ndarray
    mirror: np.ndarray | bool = False

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, places: slice) -> "Views":
        mirror = self.mirror if isinstance(self.mirror, bool) else self.mirror[places]
        return Views(self.images[places], self.numbers[places], mirror)


def first_views(images: np.ndarray) -> Views:
    """View 0 of each image, int64 [B]."""
    return Views(images, np.zeros(len(images), np.int64))

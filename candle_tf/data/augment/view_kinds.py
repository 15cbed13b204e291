"""Kinds of view by their numbers; mixed, where half of the views are: of each four, the last two.

    is_unmixed(np.arange(6))                    # [True, True, False, False, True, True]
    unmixed_numbers(np.arange(4))               # [0, 1, 4, 5]
    number_of_unmixed_views(np.array([1, 3, 8]))          # [1, 2, 4]
    first_numbers(np.array([0, 5, 6]))                    # [0, 1, 2]

The number decides, so precomputed views hold both kinds, and a teacher's output of each.
"""

import numpy as np

from candle_tf.data.augment.settings import PERIOD

_UNMIXED = 2


def is_unmixed(numbers: np.ndarray) -> np.ndarray:
    """Whether views int64 [B] are left unmixed, bool [B]."""
    return numbers % PERIOD < _UNMIXED


def unmixed_numbers(places: np.ndarray) -> np.ndarray:
    """The view numbers of the unmixed views at these places among them, int64 [B], from 0."""
    return PERIOD * (places // _UNMIXED) + places % _UNMIXED


def first_numbers(images: np.ndarray) -> np.ndarray:
    """The number at which each image's views begin, int64 [B], where numbers decide the kind.

    Were they the same for all images, an epoch would hold one kind alone: the last statistics of
    the batch norms would be those of mixed images, and the validation accuracy would depend on it.
    """
    return images % PERIOD


def number_of_unmixed_views(counts: np.ndarray) -> np.ndarray:
    """How many of the views 0..count-1 are unmixed, int64 [N]; at least 1."""
    return counts // PERIOD * _UNMIXED + np.minimum(counts % PERIOD, _UNMIXED)

"""Series of numbers that figures draw: their shape, and means over neighbours."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt


def as_series(
    what: str, values: npt.ArrayLike | Sequence[float | None], length: int | None = None
) -> npt.NDArray[np.float64]:
    """float64 `[C]`, None as NaN."""
    array = np.asarray(values, float)
    if array.ndim != 1 or not array.size or length not in (None, len(array)):
        raise ValueError(
            f"{what} of shape {array.shape}, but "
            f"{'at least one value' if length is None else (length,)} is needed"
        )
    return array


def running_mean(values: npt.NDArray[np.float64], half: int) -> npt.NDArray[np.float64]:
    """Mean over `half` neighbours on either side, as far as there are any that are not NaN."""
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0))])
    sizes = np.concatenate([[0], np.cumsum(known)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    number = sizes[high] - sizes[low]
    total = sums[high] - sums[low]
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)

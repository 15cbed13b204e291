"""Whether a teacher still gives what is stored of it: of a plugin's no key of a cache tells.

    check = value_check(teacher, "/cache/features-96px-0123.npy", lambda rows: features_of(...))
    stored_array(..., check=check)             # refuses rows that the teacher does not give

Features are stored under the teacher's weights, not under its code. That of this package is told by
version numbers; what a plugin's function does before and after the weights is not. So a few stored
rows are computed again where a cache is opened. Rows that another processor computed differ a
little (of float32 by 0.1 % and less, of 16 bits by 1 %); those of other code differ by more, or
not enough to matter.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from absl import logging

from candle_tf.data.cached_arrays import CheckRows
from candle_tf.errors import UserError
from candle_tf.teachers.backbones import Teacher

# Of the norm of a row's part. Below the first nothing is said, above the second it is refused.
_TOLD, _REFUSED = 0.005, 0.03
# Half the smallest distance of two numbers in float16.
_ROUNDING = 2.0**-25


def value_check(
    teacher: Teacher,
    path: Path,
    compute: Callable[[np.ndarray], np.ndarray],
    sizes: tuple[int, ...] = (),
) -> CheckRows | None:
    """A check for `cached_arrays.stored_array`; None where the code of the teacher is our own.

    Args:
        teacher: whose values are stored.
        path: of the stored array; it is checked once for each teacher that was loaded.
        compute: from row numbers int64 [B] to these rows as the teacher gives them now.
        sizes: of successive columns that are compared each on its own; () for one comparison.
    """
    if not teacher.has_foreign_code or path in teacher.checked:
        return None
    teacher.checked.add(path)

    def check(rows: np.ndarray, stored: np.ndarray) -> None:
        difference = largest_difference(compute(rows), stored, sizes)
        told = (
            f"{path} has values of --teacher={teacher.name} that are not those it gives now for "
            f"the same images and weights: of {len(rows)} rows they differ by up to "
            f"{100 * difference:.3g} %."
        )
        remedy = "Give a new --cache_dir and a new --run_dir for the code as it is now"
        if not difference <= _REFUSED:
            teacher.checked.discard(path)
            raise UserError(
                f"{told} Its code was changed, or a library that it uses. {remedy}, or undo the "
                "change. The file is as it was."
            )
        if difference > _TOLD:
            logging.warning(
                "%s Another processor may give so much, or code that was changed a little. If it "
                "was changed: %s.",
                *(told, remedy),
            )

    return check


def largest_difference(given: np.ndarray, stored: np.ndarray, sizes: tuple[int, ...] = ()) -> float:
    """The norm of the difference over that of the stored row, the largest of all rows and columns.

    Args:
        given: float32 [B, ...], as computed now.
        stored: float16 [B, ...].
        sizes: of successive columns, each with a norm of its own; () for one norm of a whole row.

    Returns:
        0 where both are equal but for the rounding of float16; inf where a value is not finite. A
        row that is small beside the others counts by their norm.
    """
    flat = [np.asarray(each, np.float64).reshape(len(each), -1) for each in (given, stored)]
    if not np.isfinite(flat[0]).all():
        return float("inf")
    beyond = np.maximum(np.abs(flat[0] - flat[1]) - _ROUNDING, 0)
    ends = np.cumsum(sizes)[:-1].astype(int)
    largest = 0.0
    for error, value in zip(np.split(beyond, ends, 1), np.split(flat[1], ends, 1), strict=True):
        norms = np.linalg.norm(value, axis=1)
        # What is 0 in all stored rows differs wholly where it is not 0 now.
        scale = np.maximum(norms, 0.1 * norms.mean()) + _ROUNDING
        largest = max(largest, float((np.linalg.norm(error, axis=1) / scale).max(initial=0)))
    return largest

"""Which epoch of a training is used: the best one on validation images, or the last one.

"auto" asks whether the validation images can tell the two apart. Over many epochs the highest of
noisy accuracies is high by luck: with 50 images it is chosen by two or three of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Standard errors that the best epoch must be above the last to be taken.
STANDARD_ERRORS = 2.0


@dataclass(frozen=True)
class Selection:
    """An epoch, counted from 1, and why it was selected (a clause for log and report)."""

    epoch: int
    reason: str


def select_epoch(
    policy: str,
    scores: Sequence[float | None],
    best: int,
    validation_counts: np.ndarray | None = None,
) -> Selection:
    """The epoch that --select_epoch stands for.

    Args:
        policy: "best", "last" or "auto".
        scores: validation mean class accuracy of every epoch, in 0..1; None without validation.
        best: epoch with the highest score, counted from 1.
        validation_counts: validation images of each class, int `[C]`; for "auto".

    Raises:
        ValueError: for another policy, and "auto" without the counts.
    """
    last = len(scores)
    if policy not in ("auto", "best", "last"):
        raise ValueError(f"policy is {policy!r}, which is none of auto, best, last")
    if policy != "auto":
        return Selection(best if policy == "best" else last, f"--select_epoch={policy}")
    if validation_counts is None:
        raise ValueError("auto needs the validation images of each class")
    high, end = scores[best - 1], scores[last - 1]
    if not validation_counts.sum() or high is None or end is None:
        return Selection(last, "the last: there are no validation images to choose by")
    error = standard_error((high + end) / 2, validation_counts)
    size = f"{validation_counts.sum():,} validation images (standard error {100 * error:.1f} points"
    if best == last:
        return Selection(last, f"the last, and the best on {size})")
    gain = f"{100 * (high - end):.1f} points above the last epoch on {size}"
    if high - end > STANDARD_ERRORS * error:
        return Selection(best, f"{gain}: more than {STANDARD_ERRORS:g} of these)")
    return Selection(
        last,
        f"the last: the best, {best}, is only {gain}: at most {STANDARD_ERRORS:g} of these)",
    )


def standard_error(accuracy: float, counts: np.ndarray) -> float:
    """Standard error of a mean class accuracy, as if all classes were equally hard.

    sqrt(p (1 - p) sum_c 1 / n_c) / C, over the C classes that have images: a mean of binomial
    means. Where classes differ in difficulty, but not in size, the true one is smaller.

    Args:
        accuracy: p, mean class accuracy in 0..1.
        counts: images of each class, int `[C]`; classes without images are left out.
    """
    present = counts[counts > 0].astype(np.float64)
    return float(np.sqrt(accuracy * (1 - accuracy) * np.sum(1 / present)) / len(present))

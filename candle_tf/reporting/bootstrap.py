"""How sure a difference of two classifiers is, from the test images that both classified.

difference = paired_difference(correct_a, correct_b, labels)
difference.mean, difference.low, difference.high        # of mean class accuracy, 95 %
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000


@dataclass(frozen=True)
class Difference:
    """Mean class accuracy of a classifier minus that of another, -1 to 1.

    Attributes:
        mean: the difference.
        low, high: its 95 % bootstrap interval.
    """

    mean: float
    low: float
    high: float


def paired_difference(
    correct: npt.ArrayLike,
    others: npt.ArrayLike,
    labels: npt.ArrayLike,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Paired bootstrap over the test images of each class (Efron, "Bootstrap Methods", 1979).

    Images are resampled within their class, as mean class accuracy weighs classes alike.

    Args:
        correct: `[N]`, whether a classifier was right; of several trainings their mean, 0 to 1.
        others: `[N]`, the same of the classifier it is compared with, on the same images.
        labels: int `[N]`, classes of the images.
        resamples: drawn test sets.
        seed: of the draws.

    Raises:
        ValueError: where shapes differ, or there is no image.
    """
    first, second = np.asarray(correct, float), np.asarray(others, float)
    classes = np.asarray(labels)
    if not first.shape == second.shape == classes.shape or first.ndim != 1 or not first.size:
        raise ValueError(
            f"shapes {first.shape}, {second.shape} and {classes.shape} are not one [N], N > 0"
        )
    rng = np.random.default_rng(seed)
    differences = first - second
    members = [differences[classes == label] for label in np.unique(classes)]
    drawn = np.mean(
        [
            values[rng.integers(0, len(values), (resamples, len(values)))].mean(axis=1)
            for values in members
        ],
        axis=0,
    )
    low, high = np.quantile(drawn, [0.025, 0.975])
    mean = float(np.mean([values.mean() for values in members]))
    return Difference(mean, float(low), float(high))

"""How sure a difference of two classifiers is, from the test images that both classified.

difference = paired_difference(correct_a, correct_b, labels)
difference.mean, difference.low, difference.high        # of mean class accuracy, 95 %
average = average_difference([ComparedImages(correct_a, correct_b, labels, "digits"), ...])
"""

import hashlib
from collections.abc import Sequence
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
    drawn = np.mean([_resample_means(values, rng, resamples) for values in members], axis=0)
    low, high = np.quantile(drawn, [0.025, 0.975])
    mean = float(np.mean([values.mean() for values in members]))
    return Difference(mean, float(low), float(high))


@dataclass(frozen=True)
class ComparedImages:
    """Images of a data set that two classifiers classified.

    Attributes:
        correct, others: `[N]`, as of `paired_difference`.
        labels: int `[N]`, classes of the images.
        name: of the set of images; the same for the same images in the same order.
    """

    correct: npt.ArrayLike
    others: npt.ArrayLike
    labels: npt.ArrayLike
    name: str


def average_difference(sets: Sequence[ComparedImages], *, resamples: int = RESAMPLES) -> Difference:
    """The average over data sets of differences in mean class accuracy.

    The images of each class are resampled, as in `paired_difference`, in each data set on its own;
    where two sets are of the same images, such as two imbalance factors with one test set, both
    have the same ones in a resample, as their differences vary together.

    Args:
        sets: at least one, each with at least one image.
        resamples: drawn test sets.

    Raises:
        ValueError: where there is no set, or one without an image.
    """
    if not sets:
        raise ValueError("there is no data set to average over")
    means, resampled = [], []
    for each in sets:
        labels = np.asarray(each.labels)
        if not labels.size:
            raise ValueError(f"data set {each.name!r} has no image")
        differences = np.asarray(each.correct, float) - np.asarray(each.others, float)
        classes = np.unique(labels)
        members = [differences[labels == label] for label in classes]
        means.append(np.mean([values.mean() for values in members]))
        first = int.from_bytes(hashlib.sha256(each.name.encode()).digest()[:8], "big")
        resampled.append(
            np.mean(
                [
                    _resample_means(values, np.random.default_rng([first, label]), resamples)
                    for label, values in zip(classes, members, strict=True)
                ],
                axis=0,
            )
        )
    low, high = np.quantile(np.mean(resampled, axis=0), [0.025, 0.975])
    return Difference(float(np.mean(means)), float(low), float(high))


def _resample_means(values: np.ndarray, rng: np.random.Generator, resamples: int) -> np.ndarray:
    """Means `[resamples]` of as many values as there are, drawn from them."""
    places = rng.integers(0, len(values), (resamples, len(values)))
    return np.asarray(values[places].mean(axis=1))

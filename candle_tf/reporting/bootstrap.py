"""How sure a difference of two classifiers is, from the test images that both classified.

difference = paired_difference(correct_a, correct_b, labels)
difference.mean, difference.low, difference.high        # of mean class accuracy, 95 %
average = average_difference([ComparedImages(correct_a, correct_b, labels, "digits"), ...])
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RESAMPLES = 2000
# Of these, 8 bytes for the index and 8 for the value are in memory.
_DRAWN_AT_ONCE = 2**20
# A class with fewer images varies as all such classes together do: its own may agree by chance.
_FEW = 4


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

    Images are resampled within their class, as mean class accuracy weighs classes alike. A class of
    few images varies less among its own images than among all that could have been drawn: what is
    resampled is scaled for that. Classes with two or three images vary as all of these together do,
    within their classes or about the mean difference, whichever is more. A class with one image
    varies as the others' images do, or as the single images do among the classes, whichever is
    more. Where nothing varies at all and the difference is not 0, see `_spread_where_none_is`.

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
    members = _by_class(first - second, classes)
    (deviations,) = _deviations_of_classes([members])
    drawn = _resample_mean_of_classes(
        members, deviations, lambda place: np.random.default_rng([seed, place]), resamples
    )
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
    means: list[float] = []
    classes: list[np.ndarray] = []
    members: list[list[np.ndarray]] = []
    for each in sets:
        labels = np.asarray(each.labels)
        if not labels.size:
            raise ValueError(f"data set {each.name!r} has no image")
        differences = np.asarray(each.correct, float) - np.asarray(each.others, float)
        classes.append(np.unique(labels))
        members.append(_by_class(differences, labels))
        means.append(float(np.mean([values.mean() for values in members[-1]])))
    resampled = []
    deviations = _deviations_by_name([each.name for each in sets], members)
    for place, each in enumerate(sets):
        first = int.from_bytes(hashlib.sha256(each.name.encode()).digest()[:8], "big")
        # By label, so that a class of two sets has one draw.
        draws = [np.random.default_rng([first, label]) for label in classes[place]]
        resampled.append(
            _resample_mean_of_classes(
                members[place], deviations[place], draws.__getitem__, resamples
            )
        )
    low, high = np.quantile(np.mean(resampled, axis=0), [0.025, 0.975])
    return Difference(float(np.mean(means)), float(low), float(high))


def _deviations_by_name(
    names: Sequence[str], members: Sequence[Sequence[np.ndarray]]
) -> list[list[np.ndarray]]:
    """What each class of each set varies by; by one estimate where names are the same.

    With two estimates one draw would stand for different images in these sets.
    """
    found: dict[int, list[np.ndarray]] = {}
    for name in set(names):
        places = [place for place, other in enumerate(names) if other == name]
        deviations = _deviations_of_classes([members[place] for place in places])
        found.update(zip(places, deviations, strict=True))
    return [found[place] for place in range(len(names))]


def _by_class(values: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    """The values of each class that has any, in the order of the classes."""
    return [values[labels == label] for label in np.unique(labels)]


def _resample_mean_of_classes(
    members: Sequence[np.ndarray],
    deviations: Sequence[np.ndarray],
    generator: Callable[[int], np.random.Generator],
    resamples: int,
) -> np.ndarray:
    """Resampled means over classes, `[resamples]`.

    Args:
        members: values of each class's images.
        deviations: what those of each class's drawn images from its mean are drawn from.
        generator: of a class's draws, by its place.
        resamples: how many.
    """
    drawn = [
        values.mean() + _resample_means(of_class, len(values), generator(place), resamples)
        for place, (values, of_class) in enumerate(zip(members, deviations, strict=True))
    ]
    return np.asarray(np.mean(drawn, axis=0))


def _deviations_of_classes(
    sets: Sequence[Sequence[np.ndarray]],
) -> list[list[np.ndarray]]:
    """What the images of each class vary by.

    Resampled, a class's mean has the variance (n - 1) / n^2 s^2, where that of the mean of n drawn
    images is s^2 / n (s^2 without bias): so deviations are scaled by sqrt(n / (n - 1)). Of a class
    with one image s^2 is not known, and of one with two or three it is 0 more often than not.

    Args:
        sets: of the same images; of each set the values of each class's images.

    Returns:
        Of each set those of each class.
    """
    single, few = _deviations_of_single_images(sets), _deviations_of_few_images(sets)
    found = []
    for members, of_single, of_few in zip(sets, single, few, strict=True):
        by_size = {1: of_single, **dict.fromkeys(range(2, _FEW), of_few)}
        of_class = [
            by_size[len(values)] if len(values) in by_size else _deviations(values)
            for values in members
        ]
        if not any(_varies(each) for each in of_class):
            of_class = [_spread_where_none_is(members)] * len(members)
        found.append(of_class)
    return found


def _deviations_of_few_images(sets: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """What classes with two or three images vary by: of two estimates the larger one.

    One is the scaled deviations within these classes, without bias, but from as few images: where
    both of a class agree by chance in all classes, it is 0. The other one is deviations from the
    mean over all classes. The differences between classes are in these. The larger one of two is,
    on average, so much too large as intervals of a normal distribution's width are too narrow for
    a variance that is estimated from few images: by simulation 92 to 96 % of them hold the truth.

    Args:
        sets: of the same images; of each set the values of each class's images.

    Returns:
        `[M]` of each set; one 0 for a set without such a class.
    """
    within, about_mean = [], []
    for members in sets:
        few = [values for values in members if 1 < len(values) < _FEW]
        within.append(np.concatenate([_deviations(each) for each in few] or [np.zeros(1)]))
        about_mean.append(_deviations_from_the_mean(few, members))
    return within if _variance_of_sum(within) >= _variance_of_sum(about_mean) else about_mean


def _deviations_from_the_mean(
    some: Sequence[np.ndarray], members: Sequence[np.ndarray]
) -> np.ndarray:
    """Of the images of some classes from the mean over all classes, each with both signs.

    Were all images of one distribution, the variance of x - mean were (1 - 1 / (n C)) s^2.
    """
    mean, classes = np.mean([values.mean() for values in members]), len(members)
    scaled = [
        (values - mean) * np.sqrt(classes * len(values) / max(1, classes * len(values) - 1))
        for values in some
    ]
    deviations = np.concatenate(scaled or [np.zeros(1)])
    return np.concatenate([deviations, -deviations])


def _spread_where_none_is(members: Sequence[np.ndarray]) -> np.ndarray:
    """What all images vary by where those of each class are equal: as if all were of one class.

    If all classes are equal, too, it is as if one more image had no difference: the interval is
    about that of the "rule of three" (Hanley and Lippman-Hand, 1983). All 0 where none differs.
    """
    spread = _deviations_from_the_mean(members, members)
    if _varies(spread):
        return spread
    values = np.concatenate(members)
    return np.append(np.zeros(len(values)), -values[0])


def _varies(deviations: np.ndarray) -> bool:
    """Whether one is not 0, but for the rounding of a mean."""
    return bool(np.abs(deviations).max() > 1e-12)


def _deviations_of_single_images(sets: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """What classes with one image vary by: of two estimates the one with the larger variance.

    One is the scaled deviations within all classes that have several images. If these are few, or
    of classes in which both classifiers are right, all of them may be 0: the interval would have no
    width. The other one is the deviations of the single images from the mean over all classes, as
    in surveys with one unit of a stratum (Cochran, "Sampling Techniques", 1977). The differences
    between classes are in these, so they are rather too large. Each is there with both signs, so
    that their mean is 0 where the single images are better or worse than the rest.

    Args:
        sets: of the same images; of each set the values of each class's images.

    Returns:
        `[M]` of each set; one 0 for a set without such a class, or of one image in all.
    """
    within, among = [], []
    for members in sets:
        is_single = np.array([len(values) == 1 for values in members])
        several = [_deviations(values) for values in members if len(values) > 1]
        # Of a set without single images neither is used.
        used = bool(several) and is_single.any()
        within.append(np.concatenate(several) if used else np.zeros(1))
        single = np.zeros(0)
        if len(members) > 1:
            single = _deviations(np.array([values.mean() for values in members]))[is_single]
        among.append(np.concatenate([single, -single]) if single.size else np.zeros(1))
    return within if _variance_of_sum(within) >= _variance_of_sum(among) else among


def _variance_of_sum(deviations: Sequence[np.ndarray]) -> float:
    """Of sets of the same images, which vary together; of others, as if they did not."""
    if len({len(each) for each in deviations}) == 1:
        return float(np.var(np.sum(deviations, axis=0)))
    return float(sum(np.var(each) for each in deviations))


def _deviations(values: np.ndarray) -> np.ndarray:
    """From their mean, with the variance of the images that they were drawn from."""
    count = len(values)
    return np.asarray((values - values.mean()) * np.sqrt(count / (count - 1)))


def _resample_means(
    values: np.ndarray, size: int, rng: np.random.Generator, resamples: int
) -> np.ndarray:
    """Means `[resamples]` of so many values each, drawn from them."""
    means = np.empty(resamples)
    rows = max(1, _DRAWN_AT_ONCE // size)
    # The generator gives the same numbers in slices as at once.
    for start in range(0, resamples, rows):
        shape = (min(rows, resamples - start), size)
        means[start : start + rows] = values[rng.integers(0, len(values), shape)].mean(axis=1)
    return means

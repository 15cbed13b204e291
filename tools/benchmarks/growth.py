"""How the time of an image grows: not with the number of images or of classes, and in proportion
to the number of pixels.
"""

import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from candle_tf.data.augment.precomputed_views import same_for_all
from candle_tf.teachers.backbones import Teacher
from candle_tf.teachers.features import cached_features
from candle_tf.timing import Side, alternate, ratio_of
from tools.benchmarks.workload import (
    VIEWED,
    Workload,
    distillation,
    noise_subset,
    one_epoch,
    random_targets,
)

Growth = dict[str, dict[str, float]]


def cache_growth(
    teacher: Teacher,
    images: Sequence[int] = (128, 512, 2048),
    resolutions: Sequence[int] = (64, 96, 128, 192),
    repeats: int = 3,
) -> dict[str, Growth]:
    """Time of an image in the cache.

    Args:
        teacher: frozen.
        images: numbers of images, seen at the first resolution.
        resolutions: sides in pixels, for the first number of images.
        repeats: rounds.

    Returns:
        "by_images", "by_pixels"; see `growth`.
    """

    def fill_cache(count: int, resolution: int) -> Side:
        examples = noise_subset(count, 10, resolution)
        views = same_for_all(count, 1)

        def run() -> None:
            with tempfile.TemporaryDirectory() as folder:
                cached_features(teacher, examples, VIEWED, views, resolution, Path(folder))

        return run

    few, small = images[0], resolutions[0]
    by_images = growth(images, lambda count: fill_cache(count, small), lambda count: count, repeats)
    by_pixels = growth(
        resolutions, lambda size: fill_cache(few, size), lambda size: few * size**2, repeats
    )
    return {"by_images": by_images, "by_pixels": by_pixels}


def step_growth(
    load: Workload,
    folder: Path,
    images: Sequence[int] = (2, 8, 32),
    classes: Sequence[int] = (10, 100, 1000, 8142),
    sizes: Sequence[int] = (32, 64, 96, 128),
    repeats: int = 3,
) -> dict[str, Growth]:
    """Time of an image in a distillation step on stored targets.

    Args:
        load: the student.
        folder: for the stored targets.
        images: batches in the training set; an epoch of each is timed.
        classes: numbers of classes.
        sizes: sides of the student's input in pixels.
        repeats: rounds.

    Returns:
        "by_images", "by_classes", "by_pixels"; see `growth`.
    """

    def epoch(changed: Workload) -> Side:
        examples = noise_subset(changed.images, changed.classes, changed.image_size)
        views = same_for_all(len(examples), 4)
        targets = random_targets(changed, views, folder)
        return one_epoch(changed, examples, distillation(changed), targets)

    by_images = growth(
        [load.batch_size * count for count in images],
        lambda count: epoch(replace(load, steps=count // load.batch_size)),
        lambda count: count,
        repeats,
    )
    by_classes = growth(
        classes, lambda c: epoch(replace(load, classes=c)), lambda _: load.images, repeats
    )
    by_pixels = growth(
        sizes,
        lambda size: epoch(replace(load, image_size=size)),
        lambda size: load.images * size**2,
        repeats,
    )
    return {"by_images": by_images, "by_classes": by_classes, "by_pixels": by_pixels}


def growth(
    sizes: Sequence[int],
    side: Callable[[int], Side],
    work: Callable[[int], int],
    repeats: int = 3,
) -> Growth:
    """Time of a unit of work at each size, over that at the first size in the same round.

    Args:
        sizes: what grows.
        side: what is timed at a size.
        work: units of work (images, or pixels) in it.
        repeats: rounds.

    Returns:
        By size; see `over_the_first`. A ratio that stays at 1 is growth in proportion to the work.
    """
    seconds = alternate({str(size): side(size) for size in sizes}, repeats)
    return over_the_first(seconds, {str(size): work(size) for size in sizes})


def over_the_first(seconds: Mapping[str, Sequence[float]], work: Mapping[str, int]) -> Growth:
    """Time of a unit of work of each side, over that of the first side in the same round.

    Args:
        seconds: of each side, one per round, as `alternate` gives them.
        work: units of work of each side.

    Returns:
        For each side {median, min, max} of the ratio, and "units_per_s" at the median time.
    """
    units = {name: [each / work[name] for each in times] for name, times in seconds.items()}
    first = next(iter(units.values()))
    return {
        name: {**vars(ratio_of(each, first)), "units_per_s": 1.0 / statistics.median(each)}
        for name, each in units.items()
    }

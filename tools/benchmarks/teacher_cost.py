"""What the teacher costs: once, in a cache, against in every epoch or step.

Whole trainings are too long to time. Each figure is put together from parts that are timed in turn
in one run, and says how in "composition".
"""

import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from candle_tf.data.augment.precomputed_views import same_for_all
from candle_tf.data.epoch_steps import steps_per_epoch
from candle_tf.data.subset import Subset
from candle_tf.methods.calibration import (
    CalibrationTrainer,
    build_calibration_loss,
    feature_batches,
    online_feature_batches,
    teacher_classifier,
)
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.settings import CalibrationSettings
from candle_tf.methods.trainer import TOTAL_LOSS, Trainer
from candle_tf.methods.training_loop import fit
from candle_tf.teachers.backbones import Teacher
from candle_tf.teachers.features import OnlineFeatures, cached_features
from candle_tf.teachers.targets import OnlineTargets
from candle_tf.timing import Ratio, alternate, images_per_second, ratio_of
from tools.benchmarks.workload import (
    VIEWED,
    Workload,
    cross_entropy,
    distillation,
    one_epoch,
    random_targets,
)

EPOCHS = 30
VIEWS = 4
_CALIBRATION_BATCH = 256


def distill_over_ce(load: Workload, examples: Subset, repeats: int = 5) -> dict[str, Any]:
    """Time of a distillation step on stored targets over that of a cross-entropy step.

    Args:
        load: the student; `load.images` images are used.
        examples: at least as many.
        repeats: rounds.

    Returns:
        JSON-ready: median, min, max, images_per_s of each side, composition, and the seconds of
        every subset in every round.
    """
    subset = _first(examples, load.images)
    views = same_for_all(len(subset), VIEWS)
    with tempfile.TemporaryDirectory() as folder:
        targets = random_targets(load, views, Path(folder))
        seconds = alternate(
            {
                "distillation": one_epoch(load, subset, distillation(load), targets),
                "cross_entropy": one_epoch(load, subset, cross_entropy(load)),
            },
            repeats,
            warmup=2,
        )
    return _figures(
        ratio_of(seconds["distillation"], seconds["cross_entropy"]),
        {name: images_per_second(times, load.images) for name, times in seconds.items()},
        f"{load.steps} steps of {load.batch_size} images a round, input pipeline included",
        seconds=seconds,
        student=asdict(load),
    )


def calibrate_ratio(
    teacher: Teacher,
    examples: Subset,
    classes: int,
    resolutions: Sequence[int] = (96, 128, 160),
    repeats: int = 3,
) -> dict[str, Any]:
    """Calibration for 30 epochs with the backbone in each, over building the cache and as many.

    Args:
        teacher: frozen.
        examples: N images, seen at one view.
        classes: C.
        resolutions: sides in pixels.
        repeats: rounds.

    Returns:
        As `distill_over_ce`.
    """
    views = same_for_all(len(examples), 1)
    features: list[np.ndarray] = []
    rows = np.arange(len(examples))
    fresh = OnlineFeatures(teacher, examples, VIEWED, tuple(resolutions))
    online = _calibrator(classes, teacher.feature_size)
    step = online.make_train_function()

    def fill_cache() -> None:
        with _fresh_folder() as folder:
            features_of_all = [
                cached_features(teacher, examples, VIEWED, views, r, folder) for r in resolutions
            ]
            features[:] = [np.array(stored) for stored in features_of_all]

    def backbone_epoch() -> None:
        batches = iter(
            online_feature_batches(
                fresh,
                examples.labels,
                batch_size=_CALIBRATION_BATCH,
                seed=0,
                first_epoch=0,
                epochs=1,
            )
        )
        each = steps_per_epoch(len(examples), _CALIBRATION_BATCH)
        for _ in range(each * len(resolutions)):
            logs = step(batches)
        float(logs[TOTAL_LOSS])

    def cached_epochs() -> None:
        with _fresh_folder() as folder, redirect_stdout(io.StringIO()):
            fit(
                _calibrator(classes, teacher.feature_size),
                lambda first: feature_batches(
                    features,
                    rows,
                    examples.labels,
                    batch_size=_CALIBRATION_BATCH,
                    seed=0,
                    first_epoch=first,
                    epochs=EPOCHS,
                ),
                steps=steps_per_epoch(len(features) * len(examples), _CALIBRATION_BATCH),
                epochs=EPOCHS,
                folder=folder,
            )

    fill_cache()
    seconds = alternate(
        {
            "fill_cache": fill_cache,
            "backbone_epoch": backbone_epoch,
            "cached_epochs": cached_epochs,
        },
        repeats,
    )
    online_total = [EPOCHS * each for each in seconds["backbone_epoch"]]
    cached_total = _sum(seconds["fill_cache"], seconds["cached_epochs"])
    return _figures(
        ratio_of(online_total, cached_total),
        {
            "online": images_per_second(online_total, EPOCHS * len(examples)),
            "cached": images_per_second(cached_total, EPOCHS * len(examples)),
        },
        f"online: {EPOCHS} times one epoch of {len(examples)} images at each resolution, without "
        f"callbacks; cached: features stored once, and {EPOCHS} whole epochs with checkpoints and "
        "logs",
        resolutions=list(resolutions),
        seconds=seconds,
    )


def distill_total_ratio(
    teacher: Teacher,
    load: Workload,
    examples: Subset,
    resolutions: Sequence[int] = (96, 128, 160),
    measured_images: int = 32,
    repeats: int = 3,
) -> dict[str, Any]:
    """30 epochs of distillation, the teacher in every step, over building the cache and as many.

    Args:
        teacher: frozen, of `load.feature_size` features.
        load: the student; `load.images` images are trained on.
        examples: at least as many, and at least `measured_images`.
        resolutions: sides in pixels.
        measured_images: images whose cost in the cache, at 4 views, is measured.
        repeats: rounds.

    Returns:
        As `distill_over_ce`.
    """
    subset, few = _first(examples, load.images), _first(examples, measured_images)
    views = same_for_all(len(subset), VIEWS)
    online = OnlineTargets(
        OnlineFeatures(teacher, subset, VIEWED, tuple(resolutions)),
        teacher_classifier(teacher.feature_size, load.classes),
    )

    def fill_cache() -> None:
        few_views = same_for_all(measured_images, VIEWS)
        with _fresh_folder() as folder:
            for resolution in resolutions:
                cached_features(teacher, few, VIEWED, few_views, resolution, folder)

    with tempfile.TemporaryDirectory() as folder:
        trainer = distillation(load)
        stored = random_targets(load, views, Path(folder))
        seconds = alternate(
            {
                "fill_cache": fill_cache,
                "cached_steps": one_epoch(load, subset, trainer, stored),
                "online_steps": one_epoch(load, subset, trainer, online),
            },
            repeats,
        )
    # Seconds for each image of the training set, over the whole training.
    build_seconds = [each / measured_images for each in seconds["fill_cache"]]
    cached_total = _sum(
        build_seconds, [EPOCHS * each / load.images for each in seconds["cached_steps"]]
    )
    online_total = [EPOCHS * each / load.images for each in seconds["online_steps"]]
    return _figures(
        ratio_of(online_total, cached_total),
        {
            "online": images_per_second(online_total, EPOCHS),
            "cached": images_per_second(cached_total, EPOCHS),
            "teacher_run_per_image": images_per_second(build_seconds, 1),
            "cached_step": images_per_second(seconds["cached_steps"], load.images),
        },
        f"for each image, online: {EPOCHS} times its share of a step with the teacher at each "
        f"resolution; cached: {VIEWS} views stored at each (measured on {measured_images} images), "
        f"and {EPOCHS} times its share of a step on stored targets; {load.steps} steps of "
        f"{load.batch_size} a round",
        resolutions=list(resolutions),
        seconds=seconds,
        student=asdict(load),
    )


def _first(examples: Subset, count: int) -> Subset:
    return replace(examples, rows=examples.rows[:count], labels=examples.labels[:count])


def _calibrator(classes: int, feature_size: int) -> Trainer:
    loss = build_calibration_loss(CalibrationSettings(), np.ones(classes), np.ones(classes))
    classifier = teacher_classifier(feature_size, classes)
    group = ParameterGroup(classifier.trainable_variables, adam(1e-3))
    return CalibrationTrainer(classifier, classes, loss, [group])


def _sum(*sides: Sequence[float]) -> list[float]:
    return [sum(parts) for parts in zip(*sides, strict=True)]


def _figures(
    ratio: Ratio, images_per_s: Mapping[str, float], composition: str, **facts: Any
) -> dict[str, Any]:
    return {
        **asdict(ratio),
        "images_per_s": dict(images_per_s),
        "composition": composition,
        **facts,
    }


@contextmanager
def _fresh_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)

"""Second stage: calibrate the frozen teacher's classifier, and make the student's targets."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.augment.augmentation import WHOLE, Augmentation
from candle_tf.data.augment.precomputed_views import PrecomputedViews, same_for_all
from candle_tf.data.batches import dataset_from_generator
from candle_tf.data.cached_arrays import Shard
from candle_tf.data.epoch_steps import steps_per_epoch
from candle_tf.data.samplers import class_probabilities
from candle_tf.data.subset import Subset
from candle_tf.data.targets import Targets
from candle_tf.distribute import ALONE, ONE_PROCESS, BatchShare, Workers
from candle_tf.methods.calibration import (
    CalibrationTrainer,
    build_calibration_loss,
    feature_batches,
    online_feature_batches,
    teacher_classifier,
)
from candle_tf.methods.class_accuracy import mean_class_accuracy
from candle_tf.methods.optimizers import adam, cosine_schedule
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.settings import AUTO
from candle_tf.methods.training_loop import fit
from candle_tf.run_folder import calibration_policy
from candle_tf.stages.prepare import Data
from candle_tf.stages.student_views import (
    student_augmentation,
    views_of_images,
    views_without_labels,
)
from candle_tf.stages.teacher_maps import open_maps
from candle_tf.teachers.backbones import Teacher, load_configured_teacher
from candle_tf.teachers.feature_parts import (
    FeaturePart,
    StoredFeatures,
    at_resolutions,
    join_arrays,
    resolution_groups,
)
from candle_tf.teachers.features import (
    OnlineFeatures,
    cached_features,
    features_key,
    mean_rows,
    scale_parts,
    teacher_views,
)
from candle_tf.teachers.held_out_accuracy import draw_images, held_out_accuracy, most_images
from candle_tf.teachers.targets import OnlineTargets, cached_targets
from candle_tf.weight_files.checksums import fingerprint

_BLOCK = 1024


@dataclass(frozen=True)
class Calibrated:
    """A teacher whose classifier is calibrated.

    Attributes:
        teacher: its frozen backbone.
        classifier: from features [B, d_T] to "logits" [B, C], at the selected epoch.
        targets: its outputs for the training images, cached or computed online.
        test_logits: its logits of the whole test images, float32 [N, C].
        accuracy: mean over classes of the whole validation images, 0..1; without any, of a linear
            classifier on held-out training images where --label_weight=auto asks for it, else None.
        unlabelled_targets: its outputs for the images without labels, if there are any.
    """

    teacher: Teacher
    classifier: tf.keras.Model
    targets: Targets
    test_logits: np.ndarray
    accuracy: float | None
    unlabelled_targets: Targets | None = None

    @property
    def parts(self) -> tuple[FeaturePart, ...]:
        """What the d_T features are made of, those at several resolutions included."""
        resolutions = self.targets.feature_size // self.teacher.feature_size
        return at_resolutions(self.teacher.parts, resolutions)


def calibrate(
    config: Config,
    data: Data,
    folder: Path,
    workers: Workers = ONE_PROCESS,
    teacher: Teacher | None = None,
) -> Calibrated:
    """Trains the classifier on the teacher's features, from where an earlier call stopped.

    Args:
        config: the run's settings.
        data: the prepared split.
        folder: of this stage.
        workers: that train the classifier together.
        teacher: of `open_teacher`; None opens it.

    Raises:
        UserError: for teacher weights or checkpoints that cannot be used; for a teacher or a
            student without the maps of --map_weight.
    """
    teacher = teacher or open_teacher(config, data)
    maps = open_maps(config, data, teacher)
    if maps is not None:
        # Before the classifier is trained, as they may not fit on the disk.
        maps.compute(None)
    train = _train_online if config.teacher.teacher_mode == "online" else _train_on_cache
    classifier, targets = train(config, teacher, data, folder, workers)
    of_unlabelled = _unlabelled_targets(config, teacher, data.unlabelled, classifier)
    if maps is not None:
        targets, of_unlabelled = maps.add_maps(targets), maps.add_maps_without_labels(of_unlabelled)
    if fingerprint(teacher.encoder) != teacher.fingerprint:
        raise RuntimeError("the frozen teacher's weights moved during calibration")
    logits = np.concatenate([*_whole_image_logits(config, teacher, classifier, data.test)])
    accuracy = _accuracy(config, teacher, classifier, data)
    return Calibrated(teacher, classifier, targets, logits, accuracy, of_unlabelled)


def open_teacher(config: Config, data: Data) -> Teacher:
    """The teacher that the settings name; one of several parts with their scales.

    Raises:
        UserError: for teacher weights that cannot be used, or layers that it does not have.
    """
    teacher = load_configured_teacher(config.teacher)
    side = max(config.calibration.calibration_resolutions)
    return scale_parts(teacher, data.train, side, config.run.cache_path)


def _accuracy(
    config: Config, teacher: Teacher, classifier: tf.keras.Model, data: Data
) -> float | None:
    """See `Calibrated.accuracy`."""
    if len(data.validation):
        logits = _whole_image_logits(config, teacher, classifier, data.validation)
        predicted = np.concatenate([each.argmax(axis=1) for each in logits])
        return mean_class_accuracy(data.validation.labels, predicted)
    if not (config.training.is_candle and config.balance.label_weight == AUTO):
        return None
    return held_out_accuracy(*_features_of_images(config, teacher, data), config.run.seed)


def _features_of_images(
    config: Config, teacher: Teacher, data: Data
) -> tuple[np.ndarray, np.ndarray]:
    """Features of one view of training images, combined over resolutions, and labels.

    An unmixed view that is cached already, or the whole image; of all images, or of some of large
    classes.
    """
    labels = data.train.labels
    size = teacher.feature_size * len(_resolution_groups(config)[0])
    chosen = draw_images(labels, config.run.seed, most_images(size))
    if config.teacher.teacher_mode == "cached":
        augmentation, precomputed = _training_views(config, data)
        views = precomputed.of_rows(np.arange(precomputed.total))
        rows = np.flatnonzero(~augmentation.is_mixed(views.numbers))
        images, first = np.unique(views.images[rows], return_index=True)
        if len(images) == len(labels):
            cached = _cache_features(config, teacher, data.train, augmentation, precomputed)
            return cached.mean_of(rows[first][chosen]), labels[chosen]
    whole = _whole_image_features(config, teacher, data.train)
    return whole.mean_of(chosen), labels[chosen]


def _whole_image_logits(
    config: Config, teacher: Teacher, classifier: tf.keras.Model, subset: Subset
) -> Iterator[np.ndarray]:
    """Float32 `[B, C]` of some images after the others."""
    for block in _whole_image_features(config, teacher, subset).blocks():
        yield classifier(block, training=False)["logits"].numpy()


def cache_all_features(
    config: Config, data: Data, teacher: Teacher, shard: Shard | None = None
) -> None:
    """Computes all features that `calibrate` reads from the cache.

    Args:
        config: the run's settings.
        data: the prepared split.
        teacher: frozen.
        shard: computes this range of each array alone; None: all that others do not compute.

    Raises:
        UserError: as `cached_features`.
    """
    if config.teacher.teacher_mode == "cached":
        views = _training_views(config, data)
        _cache_features(config, teacher, data.train, *views, shard)
        if data.unlabelled is not None:
            views = _views_without_labels(config, data.unlabelled)
            _cache_features(config, teacher, data.unlabelled, *views, shard)
    maps = open_maps(config, data, teacher)
    if maps is not None:
        maps.compute(shard)
    for subset in (data.validation, data.test):
        if len(subset):
            whole = (WHOLE, same_for_all(len(subset)))
            _cache_features(config, teacher, subset, *whole, shard)


def _training_views(config: Config, data: Data) -> tuple[Augmentation, PrecomputedViews]:
    return teacher_views(
        config.teacher.teacher_view, student_augmentation(config), views_of_images(config, data)
    )


def _views_without_labels(config: Config, subset: Subset) -> tuple[Augmentation, PrecomputedViews]:
    counts = views_without_labels(config, len(subset))
    return teacher_views(config.teacher.teacher_view, student_augmentation(config), counts)


def _unlabelled_targets(
    config: Config, teacher: Teacher, subset: Subset | None, classifier: tf.keras.Model
) -> Targets | None:
    """The calibrated teacher's outputs on images without labels, as on those with labels."""
    if subset is None:
        return None
    if config.teacher.teacher_mode == "online":
        return OnlineTargets(_online_features(config, teacher, subset), classifier)
    augmentation, precomputed = _views_without_labels(config, subset)
    cached = _cache_features(config, teacher, subset, augmentation, precomputed)
    return _classify(config, cached, precomputed, classifier)


def _train_on_cache(
    config: Config, teacher: Teacher, data: Data, folder: Path, workers: Workers
) -> tuple[tf.keras.Model, Targets]:
    """Trains on the features of precomputed views; of whole images where all views are mixed."""
    augmentation, precomputed = _training_views(config, data)
    cached = _cache_features(config, teacher, data.train, augmentation, precomputed)
    views = precomputed.of_rows(np.arange(precomputed.total))
    # A mixture has two labels, and the losses of calibration take one.
    rows = np.flatnonzero(~augmentation.is_mixed(views.numbers))
    features, images = cached.features, views.images[rows]
    if not len(rows):
        features = _whole_image_features(config, teacher, data.train).features
        rows = images = np.arange(len(data.train))
    steps = steps_per_epoch(len(features) * len(rows), config.calibration.calibration_batch_size)
    batches = partial(feature_batches, features, rows, data.train.labels[images])
    shown = _shown_counts(config, data, images)
    classifier = _train_classifier(config, teacher, data, shown, batches, steps, folder, workers)
    return classifier, _classify(config, cached, precomputed, classifier)


def _train_online(
    config: Config, teacher: Teacher, data: Data, folder: Path, workers: Workers
) -> tuple[tf.keras.Model, Targets]:
    """Trains on the features of new views in every epoch."""
    features = _online_features(config, teacher, data.train)
    steps = steps_per_epoch(len(data.train), config.calibration.calibration_batch_size)
    unmixed = replace(features, augmentation=features.augmentation.without_mixing())
    batches = partial(online_feature_batches, unmixed, data.train.labels)
    steps *= features.rows_per_view
    shown = _shown_counts(config, data, np.arange(len(data.train)))
    classifier = _train_classifier(config, teacher, data, shown, batches, steps, folder, workers)
    return classifier, OnlineTargets(features, classifier)


def _shown_counts(config: Config, data: Data, images: np.ndarray) -> np.ndarray:
    """How often an epoch of calibration shows each class, up to a factor, float64 [C].

    Where each view is shown once: the class counts, times the views of an image of the class over
    the fewest of any class: the class counts themselves where all images have as many. With another
    --calibration_sampler the probabilities that it gives such classes.

    Args:
        config: the run's settings.
        data: the prepared split.
        images: the training image of each view that is shown, int64 [U]; all images of a class
            have as many.
    """
    labels = data.train.labels
    once = np.bincount(labels, minlength=data.classes)
    views = np.bincount(labels[images], minlength=data.classes) / np.maximum(once, 1)
    counts = data.counts * np.where(once > 0, views / views[once > 0].min(), 1.0)
    sampler = config.calibration.calibration_sampler
    return counts if sampler == "instance" else class_probabilities(sampler, counts, 0, 1)


@dataclass(frozen=True)
class _CachedFeatures:
    """Features float16 [R, d_T] of each resolution, and the keys they are stored under.

    With --combine_resolutions=concatenate one array of all resolutions.
    """

    features: list[StoredFeatures]
    keys: list[dict[str, Any]]

    def blocks(self) -> Iterator[np.ndarray]:
        """The mean over resolutions, float32, some rows at a time."""
        for start in range(0, len(self.features[0]), _BLOCK):
            yield mean_rows(self.features, start, start + _BLOCK)

    def mean_of(self, rows: np.ndarray) -> np.ndarray:
        """The mean over resolutions of some rows, float32; no other rows are read."""
        return np.mean([np.asarray(each[rows], np.float32) for each in self.features], axis=0)


def _online_features(config: Config, teacher: Teacher, subset: Subset) -> OnlineFeatures:
    calibration = config.calibration
    return OnlineFeatures(
        teacher,
        subset,
        student_augmentation(config),
        calibration.calibration_resolutions,
        concatenate=calibration.combine_resolutions == "concatenate",
    )


def _resolution_groups(config: Config) -> tuple[tuple[int, ...], ...]:
    calibration = config.calibration
    concatenate = calibration.combine_resolutions == "concatenate"
    return resolution_groups(calibration.calibration_resolutions, concatenate)


def _classify(
    config: Config,
    cached: _CachedFeatures,
    precomputed: PrecomputedViews,
    classifier: tf.keras.Model,
) -> Targets:
    return cached_targets(
        cached.features,
        cached.keys,
        precomputed,
        classifier,
        config.run.cache_path,
        top_k=config.teacher.teacher_top_k,
        temperature=config.balance.temperature,
    )


def _cache_features(
    config: Config,
    teacher: Teacher,
    subset: Subset,
    augmentation: Augmentation,
    precomputed: PrecomputedViews,
    shard: Shard | None = None,
) -> _CachedFeatures:
    """Features at every resolution; computes what is not stored yet."""
    found = _CachedFeatures([], [])
    for resolutions in _resolution_groups(config):
        views = [(teacher, subset, augmentation, precomputed, side) for side in resolutions]
        stored = [cached_features(*each, config.run.cache_path, shard) for each in views]
        features, key = join_arrays(stored, [features_key(*each) for each in views])
        found.features.append(features)
        found.keys.append(key)
    return found


def _whole_image_features(config: Config, teacher: Teacher, subset: Subset) -> _CachedFeatures:
    return _cache_features(config, teacher, subset, WHOLE, same_for_all(len(subset)))


def _train_classifier(
    config: Config,
    teacher: Teacher,
    data: Data,
    shown: np.ndarray,
    batches: Callable[..., tf.data.Dataset],
    steps: int,
    folder: Path,
    workers: Workers,
) -> tf.keras.Model:
    settings = config.calibration
    with workers.scope():
        trainer = _build_trainer(config, teacher, data, shown, steps)
    from_epoch = partial(
        batches,
        batch_size=settings.calibration_batch_size,
        seed=config.run.seed,
        epochs=settings.calibration_epochs,
        sampler=settings.calibration_sampler,
    )
    checkpoints = fit(
        trainer,
        lambda first_epoch: workers.distribute(partial(from_epoch, first_epoch=first_epoch)),
        steps=steps,
        epochs=settings.calibration_epochs,
        folder=folder,
        unit="views",
        validation=_validation(config, teacher, data.validation, workers),
        validation_steps=workers.share.steps(len(data.validation), _BLOCK),
        workers=workers,
    )
    policy = calibration_policy(folder, config.training.select_epoch)
    checkpoints.restore_selected(policy, data.validation_counts)
    if workers.replicas == 1:
        return trainer.network
    # In variables of this process alone.
    trained = trainer.network.get_weights()
    classifier = _build_classifier(config, teacher, data)
    classifier.set_weights(trained)
    return classifier


def _build_trainer(
    config: Config, teacher: Teacher, data: Data, shown: np.ndarray, steps: int
) -> CalibrationTrainer:
    settings = config.calibration
    classifier = _build_classifier(config, teacher, data)
    loss = build_calibration_loss(settings, data.counts, shown)
    rate = cosine_schedule(
        settings.calibration_learning_rate, steps * settings.calibration_epochs, warmup_fraction=0.0
    )
    group = ParameterGroup(classifier.trainable_variables, adam(rate))
    return CalibrationTrainer(classifier, data.classes, loss, [group])


def _build_classifier(config: Config, teacher: Teacher, data: Data) -> tf.keras.Model:
    return teacher_classifier(
        teacher.feature_size * len(_resolution_groups(config)[0]),
        data.classes,
        weight_scaling=config.calibration.calibration_loss == "label_aware_smoothing",
        seed=config.run.seed,
    )


def _validation(
    config: Config, teacher: Teacher, subset: Subset, workers: Workers
) -> tf.data.Dataset | None:
    if not len(subset):
        return None
    features = _whole_image_features(config, teacher, subset)
    return workers.distribute(partial(_validation_batches, features, subset.labels))


def _validation_batches(
    features: _CachedFeatures, labels: np.ndarray, share: BatchShare = ALONE
) -> tf.data.Dataset:
    """Features of whole images, cached in either mode of the training."""

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for places in share.parts(len(labels), _BLOCK):
            rows = mean_rows(features.features, places.start, places.stop)
            yield {"inputs": rows, "labels": labels[places]}

    signature = {
        "inputs": tf.TensorSpec([None, features.features[0].shape[1]], tf.float32),
        "labels": tf.TensorSpec([None], tf.int32),
    }
    return dataset_from_generator(batches, signature)

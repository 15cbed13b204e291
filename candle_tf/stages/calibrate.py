"""Second stage: calibrate the frozen teacher's classifier, and take down its answers."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.config import Config
from candle_tf.data.augment.precomputed_views import FixedViews, same_for_all
from candle_tf.data.augment.transform import WHOLE
from candle_tf.data.batches import dataset_from_generator
from candle_tf.data.pipeline import steps_per_epoch
from candle_tf.data.subset import Subset
from candle_tf.data.targets import Targets
from candle_tf.methods.calibration import (
    CalibrationTrainer,
    calibration_loss,
    feature_batches,
    fresh_feature_batches,
    teacher_classifier,
)
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.optimizers import adam, cosine_schedule
from candle_tf.methods.training_loop import fit
from candle_tf.stages.prepare import Data
from candle_tf.stages.student_views import student_transform, views_of_images
from candle_tf.teachers.backbones import Teacher, load_teacher
from candle_tf.teachers.cached_targets import cached_targets
from candle_tf.teachers.features import features_key, mean_rows, teacher_views, view_features
from candle_tf.teachers.online_targets import OnlineFeatures, OnlineTargets
from candle_tf.teachers.weights import fingerprint

_BLOCK = 1024


@dataclass(frozen=True)
class Calibrated:
    """A teacher that knows the classes.

    Attributes:
        teacher: its frozen backbone.
        classifier: from features [B, d_T] to "logits" [B, C], at the selected epoch.
        answers: what it says to the training images, stored or computed when asked for.
        test_logits: what it says to the test images, float32 [N, C].
    """

    teacher: Teacher
    classifier: tf.keras.Model
    answers: Targets
    test_logits: np.ndarray


def calibrate(config: Config, data: Data, folder: Path) -> Calibrated:
    """Trains the classifier on the teacher's features, from where an earlier call stopped.

    Args:
        config: the run's settings.
        data: the prepared split.
        folder: of this stage.

    Raises:
        UserError: for teacher weights or checkpoints that cannot be used.
    """
    teacher = load_teacher(config.teacher, config.teacher_weights, config.teacher_weights_sha256)
    counts = views_of_images(config, data)
    views = teacher_views(config.teacher_view, student_transform(config), counts)
    learn = _from_new_views if config.teacher_mode == "online" else _from_stored_views
    classifier, answers = learn(config, teacher, data, views, folder)
    if fingerprint(teacher.encoder) != teacher.fingerprint:
        raise RuntimeError("the frozen teacher's weights moved during calibration")
    test = _look(config, teacher, data.test, same_for_all(WHOLE, len(data.test)))
    logits = [classifier(block, training=False)["logits"].numpy() for block in test.blocks()]
    return Calibrated(teacher, classifier, answers, np.concatenate(logits))


def _from_stored_views(
    config: Config, teacher: Teacher, data: Data, views: FixedViews, folder: Path
) -> tuple[tf.keras.Model, Targets]:
    stored = _look(config, teacher, data.train, views)
    images, _ = views.of_rows(np.arange(views.total))
    steps = steps_per_epoch(len(stored.features) * views.total, config.calibration_batch_size)
    batches = partial(feature_batches, stored.features, data.train.labels[images])
    classifier = _train_classifier(config, teacher, data, batches, steps, folder)
    answers = cached_targets(stored.features, stored.keys, views, classifier, config.cache_path)
    return classifier, answers


def _from_new_views(
    config: Config, teacher: Teacher, data: Data, views: FixedViews, folder: Path
) -> tuple[tf.keras.Model, Targets]:
    fresh = OnlineFeatures(teacher, data.train, views, config.calibration_resolutions, config.seed)
    each = steps_per_epoch(len(data.train), config.calibration_batch_size)
    batches = partial(fresh_feature_batches, fresh, data.train.labels)
    classifier = _train_classifier(
        config, teacher, data, batches, each * len(fresh.resolutions), folder
    )
    return classifier, OnlineTargets(fresh, classifier)


@dataclass(frozen=True)
class _Stored:
    """Features float16 [R, d_T] of each resolution, and the keys they are stored under."""

    features: list[np.ndarray]
    keys: list[dict[str, Any]]

    def blocks(self) -> Iterator[np.ndarray]:
        """The mean over resolutions, float32, some rows at a time."""
        for start in range(0, len(self.features[0]), _BLOCK):
            yield mean_rows(self.features, start, start + _BLOCK)


def _look(config: Config, teacher: Teacher, examples: Subset, views: FixedViews) -> _Stored:
    """Features at every resolution; what is not stored yet is computed."""
    features, keys = [], []
    for resolution in config.calibration_resolutions:
        settings = (teacher, examples, views, resolution, config.seed)
        features.append(view_features(*settings, config.cache_path))
        keys.append(features_key(*settings))
    return _Stored(features, keys)


def _train_classifier(
    config: Config,
    teacher: Teacher,
    data: Data,
    batches: Callable[..., tf.data.Dataset],
    steps: int,
    folder: Path,
) -> tf.keras.Model:
    classifier = teacher_classifier(
        teacher.feature_size,
        data.classes,
        weight_scaling=config.calibration_loss == "label_aware_smoothing",
        seed=config.seed,
    )
    loss = calibration_loss(
        config.calibration_loss,
        data.counts,
        tau=config.logit_adjustment_tau,
        smoothing=(config.smoothing_head, config.smoothing_tail),
    )
    rate = cosine_schedule(
        config.calibration_learning_rate, steps * config.calibration_epochs, warmup_fraction=0.0
    )
    checkpoints = fit(
        CalibrationTrainer(classifier, data.classes, loss, adam(rate)),
        lambda first_epoch: batches(
            batch_size=config.calibration_batch_size,
            seed=config.seed,
            first_epoch=first_epoch,
            epochs=config.calibration_epochs,
        ),
        steps=steps,
        epochs=config.calibration_epochs,
        folder=folder,
        validation=_validation(config, teacher, data.validation),
    )
    restore_selected(checkpoints, config.select_epoch)
    return classifier


def restore_selected(checkpoints: Checkpoints, select_epoch: str) -> int:
    """Puts a trained network back to the epoch that --select_epoch names; returns it."""
    last = checkpoints.epochs_done
    epoch = checkpoints.best_epoch if select_epoch == "best" else last
    checkpoints.restore(epoch)
    logging.info("%s: epoch %d of %d selected", checkpoints.folder.parent.name, epoch, last)
    return epoch


def _validation(config: Config, teacher: Teacher, examples: Subset) -> tf.data.Dataset | None:
    """Whole images; their features do not change, whichever mode training is in."""
    if not len(examples):
        return None
    stored = _look(config, teacher, examples, same_for_all(WHOLE, len(examples)))

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for number, block in enumerate(stored.blocks()):
            start = number * _BLOCK
            yield {"inputs": block, "labels": examples.labels[start : start + _BLOCK]}

    signature = {
        "inputs": tf.TensorSpec([None, teacher.feature_size], tf.float32),
        "labels": tf.TensorSpec([None], tf.int32),
    }
    return dataset_from_generator(batches, signature)

"""Second stage: calibrate the frozen teacher's classifier, and take down its answers."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.config import Config
from candle_tf.data.pipeline import Answers, Examples, steps_per_epoch
from candle_tf.methods.calibrate import (
    CalibrationTrainer,
    calibration_loss,
    feature_batches,
    teacher_classifier,
)
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.fitting import fit
from candle_tf.methods.optimizers import adam, cosine_schedule
from candle_tf.stages.prepare import Data
from candle_tf.teachers.backbones import Teacher, load_teacher
from candle_tf.teachers.features import TeacherView, teacher_views, view_features
from candle_tf.teachers.weights import fingerprint


@dataclass(frozen=True)
class Calibrated:
    """A teacher that knows the classes.

    Attributes:
        teacher: its frozen backbone.
        classifier: from features [B, d_T] to "logits" [B, C], at the selected epoch.
        answers: what it says to the training pictures.
        test_logits: what it says to the test pictures, float32 [N, C].
    """

    teacher: Teacher
    classifier: tf.keras.Model
    answers: Answers
    test_logits: np.ndarray


def calibrate(config: Config, data: Data, folder: Path) -> Calibrated:
    """Trains the classifier on stored features, from where an earlier call stopped.

    Args:
        config: the run's settings.
        data: the prepared split.
        folder: of this stage.

    Raises:
        UserError: for teacher weights or checkpoints that cannot be used.
    """
    teacher = load_teacher(config.teacher, config.teacher_weights, config.teacher_weights_sha256)
    views = teacher_views(config.teacher_view, config.augmentation, config.views)
    features = _features(config, teacher, data.train, views)
    classifier = _train_classifier(config, teacher, data, features, folder)
    if fingerprint(teacher.encoder) != teacher.fingerprint:
        raise RuntimeError("the frozen teacher's weights moved during calibration")

    answers = _answers(config, features, classifier)
    test = _averaged(_features(config, teacher, data.test, [TeacherView()]))[0]
    return Calibrated(teacher, classifier, answers, _logits(classifier, test))


def _features(
    config: Config, teacher: Teacher, examples: Examples, views: list[TeacherView]
) -> list[np.ndarray]:
    """float16 [V, N, d_T] for each resolution."""
    return [
        view_features(teacher, examples, views, resolution, config.seed, config.cache_path)
        for resolution in config.calibration_resolutions
    ]


def _train_classifier(
    config: Config, teacher: Teacher, data: Data, features: list[np.ndarray], folder: Path
) -> tf.keras.Model:
    steps = steps_per_epoch(sum(f.shape[0] * f.shape[1] for f in features),
                            config.calibration_batch_size)  # fmt: skip
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
        lambda first_epoch: feature_batches(
            features,
            data.train.labels,
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


def _validation(config: Config, teacher: Teacher, examples: Examples) -> tf.data.Dataset | None:
    if not len(examples):
        return None
    averaged = _averaged(_features(config, teacher, examples, [TeacherView()]))[0]
    return tf.data.Dataset.from_tensor_slices(
        {"inputs": averaged, "labels": examples.labels}
    ).batch(256)


def _averaged(features: list[np.ndarray]) -> np.ndarray:
    """The mean over resolutions, float32 [V, N, d_T]."""
    return np.mean(np.stack([np.asarray(f, np.float32) for f in features]), axis=0)


def _logits(classifier: tf.keras.Model, features: np.ndarray) -> np.ndarray:
    return classifier.predict(features, batch_size=1024, verbose=0)["logits"]


def _answers(config: Config, features: list[np.ndarray], classifier: tf.keras.Model) -> Answers:
    """The classifier is linear, so averaging features over resolutions averages logits too."""
    averaged = _averaged(features)
    if config.teacher_view == "whole":
        averaged = averaged.mean(axis=0, keepdims=True)
    logits = np.stack([_logits(classifier, view) for view in averaged])
    return Answers(averaged.astype(np.float16), logits.astype(np.float16))

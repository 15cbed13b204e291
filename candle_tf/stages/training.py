"""Third stage: train the binary student, by distillation or by a baseline's loss."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.pipeline import (
    Answers,
    evaluation_batches,
    steps_per_epoch,
    training_batches,
)
from candle_tf.methods.balance import Objective, uninformed_losses
from candle_tf.methods.baselines import LOSSES, SupervisedTrainer
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.distill import DistillationTrainer
from candle_tf.methods.fitting import fit
from candle_tf.methods.trainer import Trainer, adam, cosine_schedule
from candle_tf.stages.prepare import Data
from candle_tf.students.catalog import build_student


@dataclass(frozen=True)
class Trained:
    """A trained student.

    Attributes:
        student: from pixels to "features" and "logits"; as the last epoch left it.
        checkpoints: to put it back to the best or last epoch.
    """

    student: tf.keras.Model
    checkpoints: Checkpoints


def train_student(config: Config, data: Data, answers: Answers | None, folder: Path) -> Trained:
    """Trains the student, from where an earlier call stopped.

    Args:
        config: the run's settings.
        data: the prepared split.
        answers: the teacher's, for --method=candle.
        folder: of this stage.

    Raises:
        UserError: for a damaged checkpoint, or a training that diverged.
    """
    tf.keras.utils.set_random_seed(config.seed)
    student = build_student(
        config.student,
        (config.image_size, config.image_size, 3),
        data.classes,
        width=config.width,
        stem_stride=config.stem_stride,
    )
    steps = steps_per_epoch(len(data.train), config.batch_size)
    rate = cosine_schedule(config.learning_rate, steps * config.epochs, config.warmup_fraction)
    checkpoints = fit(
        _trainer(config, data, student, answers, adam(rate)),
        lambda first_epoch: training_batches(
            data.train,
            image_size=config.image_size,
            augmentation=config.augmentation,
            batch_size=config.batch_size,
            seed=config.seed,
            first_epoch=first_epoch,
            epochs=config.epochs,
            fixed_views=config.views if config.teacher_view == "same" else None,
            answers=answers,
        ),
        steps=steps,
        epochs=config.epochs,
        folder=folder,
        validation=evaluation_batches(data.validation, image_size=config.image_size)
        if len(data.validation)
        else None,
    )
    return Trained(student, checkpoints)


def _trainer(
    config: Config,
    data: Data,
    student: tf.keras.Model,
    answers: Answers | None,
    optimizer: tf.keras.optimizers.Optimizer,
) -> Trainer:
    if answers is None:
        return SupervisedTrainer(student, LOSSES[config.method], data.counts, optimizer)
    features = answers.features.reshape(-1, answers.features.shape[-1])
    mean = features.mean(axis=0, dtype=np.float64)
    return DistillationTrainer(
        student,
        data.classes,
        mean if config.center_features else np.zeros_like(mean),
        _objective(config, answers),
        config.temperature,
        optimizer,
        adam(config.balance_learning_rate),
        config.fixed_lambda if config.balance == "fixed" else None,
        config.seed,
    )


def _objective(config: Config, answers: Answers) -> Objective:
    if config.balance in ("plain", "fixed"):
        return Objective()
    logits = answers.logits.reshape(-1, answers.logits.shape[-1])
    kl, fs = uninformed_losses(logits, config.temperature)
    if config.balance == "relative":
        return Objective(kl, fs, config.balance_entropy)
    return Objective(entropy_weight=config.balance_entropy * kl)

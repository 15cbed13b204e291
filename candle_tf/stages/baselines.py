"""Trainers of all methods but CANDLE, and the second stage of those that have two."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.config import Config
from candle_tf.data.epoch_steps import steps_per_epoch
from candle_tf.data.pipeline import evaluation_batches, training_batches
from candle_tf.methods.adjusted_checkpoints import AdjustedCheckpoints
from candle_tf.methods.baselines import (
    LabelMethodTrainer,
    LogitDistillationTrainer,
    SupervisedTrainer,
)
from candle_tf.methods.calibration import build_calibration_loss
from candle_tf.methods.checked_losses import check_teacher_losses, checked_losses
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.contrastive import ContrastiveTrainer, build_projector
from candle_tf.methods.method import (
    Classifier,
    ContrastiveMethod,
    DistillationMethod,
    LabelMethod,
    TwoStageMethod,
)
from candle_tf.methods.optimizers import cosine_schedule
from candle_tf.methods.parameter_groups import build_parameter_groups
from candle_tf.methods.registry import METHODS
from candle_tf.methods.second_stage import ClassifierTrainer, reset_classifier
from candle_tf.methods.trainer import Trainer
from candle_tf.methods.training_loop import fit
from candle_tf.methods.training_phases import (
    clone_with_float_kernels,
    clone_without_kernel_constraint,
    has_float_kernels,
)
from candle_tf.stages.prepare import Data
from candle_tf.stages.prior_correction import correct_student, corrects_prior, features_of
from candle_tf.stages.student_views import student_augmentation, student_views
from candle_tf.students.compute_policy import compute_policy_of, set_compute_policy


def build_baseline_trainer(
    config: Config, data: Data, student: tf.keras.Model, *, steps: int, xla: bool
) -> Trainer:
    """The trainer of a method that is not "candle".

    Args:
        config: the run's settings.
        data: the prepared split.
        student: to be trained.
        steps: of the whole training.
        xla: whether XLA compiles the training step.

    Raises:
        UserError: while a step is traced, for a loss that is not float32 `[B]`.
    """
    method = METHODS[config.training.method]
    what = f"method {METHODS.title(config.training.method)}"
    if isinstance(method, ContrastiveMethod):
        return _build_contrastive_trainer(config, data, student, method, steps=steps, xla=xla)
    groups = build_parameter_groups(student, config.optimizer, steps=steps)
    if isinstance(method, DistillationMethod):
        losses = method.build_losses(config.baseline, config.balance.temperature, data.counts)
        checked = check_teacher_losses(losses, what)
        return LogitDistillationTrainer(student, data.classes, checked, groups, xla)
    if isinstance(method, LabelMethod):
        return LabelMethodTrainer(
            student,
            data.classes,
            checked_losses(method.build_loss(config.baseline, data.counts), what),
            groups,
            steps=steps,
            cosine=method.cosine,
            validation_scale=_validation_scale(config, method),
            xla=xla,
        )
    return SupervisedTrainer(student, checked_losses(method, what), data.counts, groups, xla)


def _validation_scale(config: Config, method: LabelMethod) -> float:
    return 1.0 if method.validation_scale is None else method.validation_scale(config.baseline)


def _build_contrastive_trainer(
    config: Config,
    data: Data,
    student: tf.keras.Model,
    method: ContrastiveMethod,
    *,
    steps: int,
    xla: bool,
) -> ContrastiveTrainer:
    contrast = method.build(config.baseline, data.counts)
    what = f"method {METHODS.title(config.training.method)}"
    contrast = replace(contrast, loss=checked_losses(contrast.loss, what))
    _tell_of_views(config, data, contrast.queue_length)
    projector = build_projector(student, config.run.seed)
    return ContrastiveTrainer(
        student,
        data.classes,
        contrast,
        build_parameter_groups(student, config.optimizer, steps=steps, projector=projector),
        projector=projector,
        momentum_network=_build_momentum_network(config, data, student),
        xla=xla,
    )


def _tell_of_views(config: Config, data: Data, queue_length: int) -> None:
    """Logs what makes a contrastive training say less than it could."""
    images = steps_per_epoch(len(data.train), config.training.batch_size) * min(
        config.training.batch_size, len(data.train)
    )
    if queue_length > images:
        logging.info(
            "the queue of %s keys holds those of the last %.1f epochs: several of each image",
            *(f"{queue_length:,}", queue_length / images),
        )
    if student_augmentation(config).is_whole:
        logging.warning(
            "--method=%s: both views of an image are the whole image, as the augmentation changes "
            "nothing; give another --augmentation",
            config.training.method,
        )


def _build_momentum_network(config: Config, data: Data, student: tf.keras.Model) -> tf.keras.Model:
    """A network that was made in the same steps as the student, so that all weights have the same
    order. The network of training phase one cannot be cloned."""
    network = config.student.build(data.classes)
    if not config.optimizer.clip_latent_weights:
        network = clone_without_kernel_constraint(network)
    if has_float_kernels(student):
        network = clone_with_float_kernels(network)
    set_compute_policy(network, compute_policy_of(student))
    # The student itself decides which images it takes.
    network.input_spec = [tf.keras.layers.InputSpec(ndim=4)]
    return network


def adjusts_classifier(config: Config) -> bool:
    """Whether the run's method changes the student's classifier after training, so that what its
    checkpoints hold is not what is measured and exported."""
    method = METHODS[config.training.method]
    if isinstance(method, TwoStageMethod):
        return method.scale_only
    if config.training.method == "candle":
        return corrects_prior(config)
    return isinstance(method, LabelMethod) and method.adjust is not None


def classifier_adjustment(
    config: Config, data: Data, student: tf.keras.Model
) -> Callable[[], float | None] | None:
    """What the run's method does to the student's classifier after training; None for nothing."""
    method = METHODS[config.training.method]
    if not adjusts_classifier(config):
        return None
    if not isinstance(method, LabelMethod) or method.adjust is None:
        return partial(correct_student, config, data, student)
    change = method.adjust
    layer = student.get_layer("logits")

    def adjust() -> None:
        before = Classifier(layer.kernel.numpy(), layer.bias.numpy())
        after = change(
            config.baseline, data.counts, before, lambda: _validation(config, data, student)
        )
        layer.kernel.assign(after.kernel)
        layer.bias.assign(after.bias)

    return adjust


def without_mixing(config: Config) -> Config:
    """The same settings, without --mix and what belongs to it."""
    return config.replace(mix="none", mix_alpha=1.0, mix_views="all", unmixed_from=1.0)


def _validation(
    config: Config, data: Data, student: tf.keras.Model
) -> tuple[np.ndarray, np.ndarray]:
    """Features `[N, d_S]` and labels `[N]` of the validation images."""
    return features_of(config, data.validation, student), data.validation.labels


def train_classifier(
    config: Config, data: Data, student: tf.keras.Model, method: TwoStageMethod, folder: Path
) -> Checkpoints:
    """The second stage; resumes after the last epoch that an earlier call finished.

    Args:
        config: the run's settings.
        data: the prepared split.
        student: as the first stage left it; its layer "logits" is trained, or scaled.
        method: what is trained.
        folder: of this stage.

    Returns:
        Checkpoints that restore the student with its new classifier.

    Raises:
        UserError: for a damaged checkpoint, or a training that diverged.
    """
    if not method.scale_only:
        reset_classifier(student, config.run.seed)
    epochs = config.baseline.classifier_epochs
    steps = steps_per_epoch(len(data.train), config.training.batch_size)
    trainer = ClassifierTrainer(
        student,
        data.classes,
        # All classes are sampled alike.
        build_calibration_loss(
            config.calibration, data.counts, np.ones_like(data.counts), method.loss
        ),
        scale_only=method.scale_only,
        rate=cosine_schedule(
            config.baseline.classifier_learning_rate, steps * epochs, warmup_fraction=0.0
        ),
    )
    size = config.student.image_size
    checkpoints = fit(
        trainer,
        lambda first_epoch: training_batches(
            data.train,
            image_size=size,
            augmentation=student_augmentation(without_mixing(config)),
            sampler="class_balanced",
            batch_size=config.training.batch_size,
            seed=config.run.seed,
            first_epoch=first_epoch,
            epochs=epochs,
            precomputed=student_views(config, data),
        ),
        steps=steps,
        epochs=epochs,
        folder=folder,
        validation=evaluation_batches(data.validation, image_size=size)
        if len(data.validation)
        else None,
    )
    return AdjustedCheckpoints(
        checkpoints.folder,
        trainer,
        student,
        student.get_layer("logits"),
        trainer.apply_scale,
    )

"""Third stage: train the binary student, by distillation or by a baseline's loss."""

import math
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from candle_tf.config import Config
from candle_tf.data.epoch_steps import steps_per_epoch
from candle_tf.data.image_sizes import sides_of_epochs, spans_of_sides
from candle_tf.data.pipeline import (
    EVALUATION_BATCH,
    evaluation_batches,
    join_batches,
    training_batches,
    unlabelled_batches,
)
from candle_tf.data.samplers import DEFERRED
from candle_tf.data.targets import Targets
from candle_tf.distribute import ONE_PROCESS, BatchShare, Workers
from candle_tf.errors import UserError
from candle_tf.methods.adjusted_checkpoints import AdjustedCheckpoints
from candle_tf.methods.annealing import Annealing, find_annealed_quantizers
from candle_tf.methods.batch_norm_statistics import (
    VIEWS,
    ReestimateBatchNorm,
    trainable_batch_norms,
)
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.distillation import (
    FoldHead,
)
from candle_tf.methods.method import TwoStageMethod
from candle_tf.methods.registry import METHODS
from candle_tf.methods.trained_checkpoints import TrainedCheckpoints
from candle_tf.methods.trainer import Trainer
from candle_tf.methods.training_loop import fit
from candle_tf.methods.training_phases import (
    clone_with_float_kernels,
    clone_without_kernel_constraint,
    copy_weights,
)
from candle_tf.methods.weight_average import UseAverage
from candle_tf.stages.baselines import (
    build_baseline_trainer,
    classifier_adjustment,
    train_classifier,
)
from candle_tf.stages.calibrate import Calibrated
from candle_tf.stages.distillation import (
    build_distillation_trainer,
    has_tied_head,
    has_trained_classifier,
    label_weight_callbacks,
)
from candle_tf.stages.prepare import Data
from candle_tf.stages.prior_correction import refuse_missing_bias
from candle_tf.stages.student_views import (
    student_augmentation,
    student_sides,
    student_views,
    unlabelled_views,
)
from candle_tf.stages.student_weights import start_student
from candle_tf.students.analysis.preflight import refuse_unconvertible
from candle_tf.students.any_image_size import any_image_size
from candle_tf.students.compute_policy import ComputePolicy, set_compute_policy
from candle_tf.students.layers.sync_batch_norm import synchronize_batch_norm

# Below this a training is told to be too short.
_FEW_STEPS = 500


@dataclass(frozen=True)
class Trained:
    """A trained student.

    Attributes:
        student: from pixels to "features" and "logits". Its weights are those of the epoch that
            `checkpoints` restored last; who uses it restores the epoch it needs.
        checkpoints: restore it to the selected or the last epoch.
        policy: how its training steps were computed.
        first_stage: checkpoints of the first of two stages, which trained the whole student; None
            of a method with one.
    """

    student: tf.keras.Model
    checkpoints: Checkpoints
    policy: ComputePolicy
    first_stage: Checkpoints | None = None


def train_student(
    config: Config,
    data: Data,
    targets: Targets | None,
    folder: Path,
    policy: ComputePolicy,
    calibrated: Calibrated | None = None,
) -> Trained:
    """Trains the student; resumes after the last epoch that an earlier call finished.

    With --binary_steps=2 there is a training phase before, of the student with float kernels, in
    the folder beside it that has "_step1" added to its name. A method with two stages has its first
    in the folder with "_stage1" added. Once a second phase has begun, its first is not
    trained further, also where more epochs are asked for.

    Args:
        config: the run's settings.
        data: the prepared split.
        targets: the teacher's outputs, for a method that distils.
        folder: of this stage.
        policy: how a training step is computed.
        calibrated: the teacher, for --student_head=tied and --label_weight=auto.

    Raises:
        UserError: for a student that will not be binary on the device, a damaged checkpoint, a
            training that diverged, or an optimizer that the student's kernels do not suit.
    """
    if not config.training.epochs:
        config = with_epochs(config, len(data.train))
    method = METHODS[config.training.method]
    if isinstance(method, TwoStageMethod):
        return _train_two_stages(config, data, method, targets, folder, policy, calibrated)
    return _train_phases(config, data, targets, folder, policy, calibrated, ONE_PROCESS)


def train_together(
    config: Config,
    data: Data,
    targets: Targets | None,
    folder: Path,
    policy: ComputePolicy,
    calibrated: Calibrated | None,
    workers: Workers,
) -> None:
    """Trains the student on several devices; `train_student` reads it back, or resumes.

    Of a method with two stages this is the first; the second trains the classifier on one device.

    Args:
        config, data, targets, folder, policy, calibrated: as of `train_student`.
        workers: of several devices.

    Raises:
        UserError: as `train_student`, and for a batch that cannot be divided among the devices.
    """
    method = METHODS[config.training.method]
    if isinstance(method, TwoStageMethod):
        if _is_begun(folder):
            return
        config = _of_first_stage(config, method)
        folder = _first_stage_folder(folder)
    # The check reads variables that are in one place.
    refuse_unconvertible(config.student.build(data.classes))
    with workers.scope():
        _train_phases(config, data, targets, folder, policy, calibrated, workers)


def _train_phases(
    config: Config,
    data: Data,
    targets: Targets | None,
    folder: Path,
    policy: ComputePolicy,
    calibrated: Calibrated | None,
    workers: Workers,
) -> Trained:
    tf.keras.utils.set_random_seed(config.run.seed)
    student = config.student.build(data.classes)
    refuse_missing_bias(config, student)
    if workers.replicas == 1:
        refuse_unconvertible(student)
    if not _has_checkpoint(config, folder):
        start_student(config.student, student, data.split.class_names)
    if not config.optimizer.clip_latent_weights:
        student = clone_without_kernel_constraint(student)
    if config.training.binary_steps == 2 and not _is_begun(folder):
        first = clone_with_float_kernels(student)
        logging.info("training phase one of two: binary activations, float kernels")
        before = folder.with_name(f"{folder.name}_step1")
        _train(config, data, first, targets, before, policy, calibrated, workers)
        copy_weights(first, student)
        logging.info("training phase two of two: binary activations and kernels")
    if config.training.binary_steps == 2:
        config = config.replace(weight_decay=0.0)
    checkpoints = _train(config, data, student, targets, folder, policy, calibrated, workers)
    return Trained(student, checkpoints, policy)


def _train_two_stages(
    config: Config,
    data: Data,
    method: TwoStageMethod,
    targets: Targets | None,
    folder: Path,
    policy: ComputePolicy,
    calibrated: Calibrated | None,
) -> Trained:
    """A whole training by the first stage's method, then the classifier alone."""
    stage1 = _first_stage_folder(folder)
    if _is_begun(folder):
        done = Checkpoints(stage1 / "checkpoints", tf.Module()).epochs_done
        if done < config.training.epochs:
            raise UserError(
                f"--epochs={config.training.epochs} cannot continue {stage1}, which has {done}: "
                "the second stage was trained on that student already. Give another --run_dir."
            )
    logging.info("first of two stages: the whole student by %s", method.first)
    of_first = _of_first_stage(config, method)
    first = train_student(of_first, data, targets, stage1, policy, calibrated)
    # Once begun, the second stage's checkpoints hold the network of the epoch that was selected;
    # --select_epoch may be another one now.
    if not _is_begun(folder):
        chooses = has_trained_classifier(of_first, data, calibrated)
        selection = config.training.select_epoch if chooses else "last"
        first.checkpoints.restore_selected(selection, data.validation_counts)
    logging.info("second of two stages: the classifier alone, all classes sampled alike")
    checkpoints = train_classifier(config, data, first.student, method, folder)
    return Trained(first.student, checkpoints, policy, first.checkpoints)


def _of_first_stage(config: Config, method: TwoStageMethod) -> Config:
    """Without a correction of its classifier, in whose place the second stage trains another."""
    return config.replace(method=method.first, prior_correction="0")


def _first_stage_folder(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}_stage1")


def _has_checkpoint(config: Config, folder: Path) -> bool:
    """Whether there is a checkpoint to resume from: starting weights are of no use then."""
    two_phases = config.training.binary_steps == 2
    return _is_begun(folder) or (two_phases and _is_begun(folder.with_name(f"{folder.name}_step1")))


def _is_begun(folder: Path) -> bool:
    """Whether a training has finished an epoch in the folder."""
    return (folder / "checkpoints" / "progress.json").exists()


# How often a precomputed view is shown before it is learned by heart, as an order of magnitude.
_SHOWN_AT_MOST = 10
_EPOCHS_TOLD = {
    False: "100, or more where these do not show 128,000 images",
    True: "25, or more where these do not show 32,000 images, as the student starts from weights",
}


def default_epochs(config: Config, images: int) -> int:
    """What --epochs=0 stands for.

    Args:
        config: the run's settings.
        images: that an epoch shows the student.
    """
    pretrained = bool(config.student.student_weights)
    return config.replace(epochs=0).training.epochs_for(images, pretrained)


def with_epochs(config: Config, images: int, default: int = 0) -> Config:
    """The settings with the number of epochs that --epochs=0 stands for; logs what they amount to.

    Args:
        config: the run's settings.
        images: for training, with labels.
        default: what --epochs=0 stands for in a run that was begun; 0 for what it is today.
    """
    training = config.training
    pretrained = bool(config.student.student_weights)
    default = default or default_epochs(config, config.images_in_epoch(images))
    epochs = training.epochs or default
    steps = steps_per_epoch(images, config.labelled_batch_size) * epochs
    unlabelled = config.unlabelled.in_batch(training.batch_size)
    size = min(config.labelled_batch_size, images) + unlabelled
    logging.info(
        "the student's training: %s epochs of %s images, %s steps of %d, %s images seen%s",
        *(f"{epochs:,}", f"{images:,}", f"{steps:,}", size, f"{steps * size:,}"),
        "" if training.epochs else f" (--epochs=0: {_EPOCHS_TOLD[pretrained]})",
    )
    if training.progressive_sizes:
        sides = sides_of_epochs(training.progressive_sizes, epochs, config.student.image_size)
        spans = spans_of_sides(sides, 0)
        told = [f"{sides[first]} px until epoch {end}" for first, end in spans]
        logging.info("the student's training views: %s", ", ".join(told))
    if unlabelled:
        logging.info("%d of the images in each step are without labels", unlabelled)
    if steps < _FEW_STEPS and epochs < default:
        logging.warning(
            "%s steps are few: of so many a student learns little. --epochs=0 stands for %s here",
            *(f"{steps:,}", f"{default:,}"),
        )
    _tell_of_few_views(config, epochs)
    _tell_of_two_corrections(config)
    return config.replace(epochs=epochs)


def _tell_of_two_corrections(config: Config) -> None:
    """Warns where rare classes are favoured by the method and by the sampler."""
    method, data = config.training.method, config.data
    corrects = getattr(METHODS[method], "corrects_class_sizes", None)
    samples = data.sampler != "instance"
    if data.sampler in DEFERRED:
        samples = data.sampler_start < 1
    if corrects and corrects(config.baseline) and samples:
        logging.warning(
            "--method=%s corrects for the classes' numbers of training images, and --sampler=%s "
            "shows rare classes more often already: both together favour them twice",
            *(method, data.sampler),
        )


def _tell_of_few_views(config: Config, epochs: int) -> None:
    """Warns where few precomputed views are shown many times."""
    wanted = -(-epochs // _SHOWN_AT_MOST)
    if config.teacher.precomputes_views and config.teacher.views < wanted:
        logging.warning(
            "each of the --views=%d precomputed views of an image is shown %.0f times in %s epochs,"
            " and so learned by heart; give --views=%d or more",
            *(config.teacher.views, epochs / config.teacher.views, f"{epochs:,}", wanted),
        )


def _train(
    config: Config,
    data: Data,
    student: tf.keras.Model,
    targets: Targets | None,
    folder: Path,
    policy: ComputePolicy,
    calibrated: Calibrated | None,
    workers: Workers,
) -> Checkpoints:
    """One training of --epochs; its checkpoints restore kernels that are exact signs."""
    set_compute_policy(student, policy)
    if workers.replicas > 1 and config.compute.sync_batch_norm:
        synchronize_batch_norm(student)
    steps = steps_per_epoch(len(data.train), config.labelled_batch_size)
    trainer = _build_trainer(config, data, student, targets, calibrated, steps, policy.xla)
    annealing = Annealing(
        find_annealed_quantizers(student), config.training.epochs, config.training.anneal_fraction
    )
    from_epoch = partial(
        _batches, config, data, targets, calibrated, second_views=config.training.contrasts
    )
    validation = partial(evaluation_batches, data.validation, image_size=config.student.image_size)
    sides = student_sides(config)
    with any_image_size(student) if config.training.progressive_sizes else nullcontext():
        checkpoints = fit(
            trainer,
            lambda first_epoch: workers.distribute(
                partial(from_epoch, first_epoch=first_epoch, image_size=sides[first_epoch])
            ),
            steps=steps,
            epochs=config.training.epochs,
            folder=folder,
            validation=workers.distribute(validation) if len(data.validation) else None,
            validation_steps=workers.share.steps(len(data.validation), EVALUATION_BATCH),
            callbacks=[
                *([annealing] if annealing.quantizers else []),
                *([UseAverage()] if config.optimizer.weight_average else []),
                *_reestimation(config, data, student, annealing, steps, workers),
                *([FoldHead()] if has_tied_head(config) else []),
                *label_weight_callbacks(config, data, calibrated, trainer),
            ],
            sides=sides if config.training.progressive_sizes else (),
            workers=workers,
        )
    return _checkpoints_to_read(config, data, student, checkpoints, trainer)


def _build_trainer(
    config: Config,
    data: Data,
    student: tf.keras.Model,
    targets: Targets | None,
    calibrated: Calibrated | None,
    steps: int,
    xla: bool,
) -> Trainer:
    """What trains the student in --epochs of so many steps."""
    whole: dict[str, Any] = {"steps": steps * config.training.epochs, "xla": xla}
    trainer: Trainer = (
        build_distillation_trainer(config, data, student, targets, calibrated, **whole)
        if config.training.method == "candle"
        else build_baseline_trainer(config, data, student, **whole)
    )
    if config.optimizer.weight_average:
        trainer.average_weights(config.optimizer.weight_average)
    return trainer


def _checkpoints_to_read(
    config: Config,
    data: Data,
    student: tf.keras.Model,
    checkpoints: Checkpoints,
    trainer: Trainer,
) -> Checkpoints:
    """Those of a training, whose network is finished and its classifier adjusted."""
    classifier = student.get_layer("logits")
    classifier.trainable = True
    adjust = classifier_adjustment(config, data, student)
    if adjust is not None:
        return AdjustedCheckpoints(checkpoints.folder, trainer, student, classifier, adjust)
    return TrainedCheckpoints(checkpoints.folder, trainer, student)


def _reestimation(
    config: Config,
    data: Data,
    student: tf.keras.Model,
    annealing: Annealing,
    steps: int,
    workers: Workers = ONE_PROCESS,
) -> list[ReestimateBatchNorm]:
    """What estimates the batch-norm statistics at --image_size, where those of training do not
    serve: of averages, after epochs at another size, and of the signs of annealed kernels."""
    sides, size = student_sides(config), config.student.image_size
    always = bool(config.optimizer.weight_average) or config.training.reestimate_batch_norm
    annealed = annealing.annealed_epochs if _has_statistics_of_signs(student, annealing) else 0
    epochs = [
        epoch for epoch, side in enumerate(sides) if always or side != size or epoch < annealed
    ]
    if not epochs:
        return []
    count = min(steps, math.ceil(VIEWS / config.training.batch_size))

    def views(epoch: int, share: BatchShare) -> tf.data.Dataset:
        batches = _batches(config, data, None, None, epoch, share, size)
        return batches.take(count * len(share.replicas))

    def views_of_epoch(epoch: int) -> Any:
        return workers.distribute(partial(views, epoch))

    return [ReestimateBatchNorm(student, views_of_epoch, epochs, annealing.quantizers)]


def _has_statistics_of_signs(student: tf.keras.Model, annealing: Annealing) -> bool:
    """Whether there are annealed kernels, and statistics of their signs can be estimated."""
    if not annealing.quantizers:
        return False
    try:
        trainable_batch_norms(student)
    except ValueError as error:
        logging.warning(
            "validation while binary weights are annealed says little: the batch-norm statistics "
            "are those of the annealed weights, as others cannot be estimated (%s)",
            error,
        )
        return False
    return True


def _batches(
    config: Config,
    data: Data,
    targets: Targets | None,
    calibrated: Calibrated | None,
    first_epoch: int,
    share: BatchShare,
    image_size: int,
    second_views: bool = False,
) -> tf.data.Dataset:
    """Batches of the student; with --unlabelled_dir a part of each is images without labels."""
    same: dict[str, Any] = {
        "image_size": image_size,
        "augmentation": student_augmentation(config),
        "unmixed_from": config.augment.unmixed_from,
        "seed": config.run.seed,
        "share": share,
    }
    labelled = training_batches(
        data.train,
        sampler=config.data.sampler,
        sampler_start=config.data.sampler_start,
        batch_size=config.labelled_batch_size,
        first_epoch=first_epoch,
        epochs=config.training.epochs,
        precomputed=student_views(config, data),
        targets=targets,
        second_views=second_views,
        **same,
    )
    if data.unlabelled is None:
        return labelled
    if targets is not None and (calibrated is None or calibrated.unlabelled_targets is None):
        raise ValueError("images without labels need the teacher's outputs")
    steps = steps_per_epoch(len(data.train), config.labelled_batch_size)
    unlabelled = unlabelled_batches(
        data.unlabelled,
        batch_size=config.unlabelled.in_batch(config.training.batch_size),
        first_step=first_epoch * steps,
        steps=config.training.epochs * steps,
        precomputed=unlabelled_views(config, len(data.unlabelled)),
        targets=calibrated.unlabelled_targets if calibrated else None,
        **same,
    )
    return join_batches(labelled, unlabelled)

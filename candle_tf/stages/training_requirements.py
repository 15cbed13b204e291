"""What a student's training needs, checked before anything is computed.

check_training_requirements(config, workers.replicas)
check_split_requirements(config, split, workers.replicas)   # as soon as the split is known
"""

from pathlib import Path

import tensorflow as tf

from candle_tf.config import Config, refuse_random_classifier
from candle_tf.data.augment.augmentation import make_augmentation
from candle_tf.data.image_sizes import parse_sizes
from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.methods.batch_norm_statistics import trainable_batch_norms
from candle_tf.methods.calibration import refuse_calibration_arguments
from candle_tf.methods.checked_distillation import (
    refuse_distillation_arguments,
    try_distillation,
)
from candle_tf.methods.checked_losses import refuse_arguments, try_losses
from candle_tf.run_folder import RunFolder
from candle_tf.stages import run_teacher, student_weights
from candle_tf.stages.balance_floors import refuse_other_split
from candle_tf.stages.prior_correction import refuse_missing_bias
from candle_tf.stages.replica_shares import refuse_batches, refuse_shares_of_split
from candle_tf.students.any_image_size import explain_fixed_size
from candle_tf.students.layers.blocks import binary_layers
from candle_tf.teachers.backbones import refuse_unknown_teachers

# The number of classes decides nothing here.
_ANY_CLASSES = 2


def check_training_requirements(config: Config, replicas: int) -> None:
    """Refuses teachers that are no runs, starting weights and training options that would fail.

    The options are --progressive_sizes, --weight_average and --reestimate_batch_norm. The student
    is built for this, once and for each size, and the random state is set again as at the start of
    the run. What a method of two views cannot be trained with is told here as well: how a method
    learns is known by importing it, and TensorFlow with it. So are registered functions that take
    other arguments than they will be called with.

    Args:
        config: the run's settings.
        replicas: devices that train together.

    Raises:
        UserError: for a part of other arguments, or an augmentation that is none; for a teacher's
            run or starting weights that cannot be loaded; with such an
            option or method for several devices; for a method of two views with settings that leave
            one view, or none of one class; with an option for a student that is not the same
            network at all sizes, or one with batch norms whose inputs are not at hand; with an
            option of binary kernels for a student without any; for a classifier that no loss
            would train; for a plugin's student without the bias that --prior_correction changes;
            for batches that cannot be divided among the devices.
    """
    refuse_random_classifier(config)
    refuse_batches(config, replicas)
    if config.run.plugin:
        # A student of a user's own; those of the package are known to be right.
        refuse_missing_bias(config, config.student.build(_ANY_CLASSES))
    refuse_arguments(config.training.method)
    make_augmentation(config.augment, config.run.seed)
    if config.training.is_candle:
        refuse_distillation_arguments(config.balance)
    if config.training.distils:
        refuse_unknown_teachers(config.teacher)
        refuse_calibration_arguments(config.calibration)
        run_teacher.refuse_bad_run_teachers(config.teacher, config.maps.map_weight)
    if config.student.student_weights and not _is_begun(config):
        student_weights.starting_weights(config.student)
    _check_options(config, replicas)
    tf.keras.utils.set_random_seed(config.run.seed)


def check_split_requirements(config: Config, split: Split, replicas: int) -> None:
    """Refuses what the settings cannot be used with: this split's images.

    Args:
        config: the run's settings.
        split: without images that cannot be read.
        replicas: devices that train together.

    Raises:
        UserError: for a teacher and starting weights that were trained on this run's test images;
            for options that are decided on validation images where there are none; for a loss that
            does not depend on how sure a student of two classes is, and a method's loss that is not
            one number of each example; for a plugin's losses and balance of a distillation that
            give something else; for floors of another split's run; for images that several
            devices cannot share.
    """
    refuse_shares_of_split(config, split, replicas)
    _refuse_seen_images(config, split)
    _refuse_options(config, split)
    refuse_other_split(config, split)
    training, temperature = config.training, config.balance.temperature
    try_losses(training.method, config.baseline, temperature, split.train_counts)
    if training.is_candle and config.run.plugin:
        # Losses and a balance of a user's own; those of the package are known to be right.
        try_distillation(config.balance, split.train_counts)
        tf.keras.utils.set_random_seed(config.run.seed)


def _refuse_seen_images(config: Config, split: Split) -> None:
    if config.training.distils:
        run_teacher.refuse_seen_images(config.teacher, split)
    if not _is_begun(config):
        student_weights.refuse_seen_images(config.student, split)


def _refuse_options(config: Config, split: Split) -> None:
    classes = len(split.class_names)
    for name, value, other in (
        ("label_weight", "adaptive", "--label_weight=auto"),
        ("prior_correction", "auto", "a number for --prior_correction"),
    ):
        if config[name] == value and not split.validation.ids:
            raise UserError(
                f"--{name}={value} is decided on validation images, and this split has none. Give "
                f"a --validation_fraction above 0, a split with such images, or {other}."
            )
    if config.balance.logit_loss == "standardized" and classes == 2:
        raise UserError(
            "--logit_loss=standardized is for more than two classes: of two, logits with mean 0 "
            "and variance 1 are 1 and -1 whatever the student says. Give --logit_loss=kl."
        )
    if config.balance.logit_loss == "dist" and classes == 2:
        raise UserError(
            "--logit_loss=dist is for more than two classes: of two, its correlations do not tell "
            "where the student decides between them. Give --logit_loss=kl."
        )


def _is_begun(config: Config) -> bool:
    """Whether a student has finished an epoch: starting weights are of no use then."""
    return RunFolder(Path(config.run.run_dir)).has_student_epochs


def _check_options(config: Config, replicas: int) -> None:
    if config.training.contrasts:
        _refuse_one_view(config, replicas)
    _refuse_options_of_binary_kernels(config)
    option = _option(config)
    if not option:
        return
    if replicas > 1:
        raise UserError(f"{option} is for one device: give --strategy=one, or leave it out.")
    student = config.student.build(_ANY_CLASSES)
    if config.training.progressive_sizes:
        _refuse_fixed_size(config, student)
    try:
        trainable_batch_norms(student)
    except ValueError as error:
        raise UserError(
            f"{option} cannot estimate the statistics of --student={config.student.student}: "
            f"{error}. Give another student, or leave it out."
        ) from error


def _refuse_one_view(config: Config, replicas: int) -> None:
    """Refuses what a method that compares two views of each image cannot be trained with."""
    method = f"--method={config.training.method}"
    if replicas > 1:
        # Each replica would have a queue of its own share of the keys.
        raise UserError(f"{method} is for one device: give --strategy=one, or another --method.")
    if config.augment.mix != "none":
        raise UserError(
            f"--mix={config.augment.mix} contradicts {method}, which compares images of one class, "
            "and a mixture is of two; give --mix=none."
        )
    if config.optimizer.optimizer == "bop":
        raise UserError(
            f"--optimizer=bop contradicts {method}: its momentum encoder averages latent weights, "
            "and Bop has none; give --optimizer=adam."
        )
    views = config.teacher.views
    if config.teacher.precomputes_views and views < 2:
        raise UserError(
            f"--views={views} contradicts {method}, which compares two views of each "
            "image; give --views=2 or more."
        )


def _refuse_options_of_binary_kernels(config: Config) -> None:
    """Refuses what is of binary kernels alone, for a network that has none."""
    optimizer = config.optimizer
    given = [
        *(["--binary_steps=2"] if config.training.binary_steps == 2 else []),
        *(["--optimizer=bop"] if optimizer.optimizer == "bop" else []),
        *(["--binary_learning_rate"] if optimizer.binary_learning_rate else []),
        *(["--binary_weight_decay"] if optimizer.binary_weight_decay else []),
        *([] if optimizer.clip_latent_weights else ["--noclip_latent_weights"]),
    ]
    if given and not binary_layers(config.student.build(_ANY_CLASSES)):
        raise UserError(
            f"{given[0]} contradicts --student={config.student.student}, which has no binary "
            "kernels; leave it out."
        )


def _option(config: Config) -> str:
    """The first option that needs something; empty for none."""
    for name in ("progressive_sizes", "weight_average", "reestimate_batch_norm"):
        if config[name]:
            return f"--{name}" if config[name] is True else f"--{name}={config[name]}"
    return ""


def _refuse_fixed_size(config: Config, student: tf.keras.Model) -> None:
    given = f"--progressive_sizes={config.training.progressive_sizes}"
    for side in sorted({size.side for size in parse_sizes(config.training.progressive_sizes)}):
        try:
            # What an architecture itself has to say of a size.
            config.replace(image_size=side).student.build(_ANY_CLASSES)
            reason = explain_fixed_size(student, side)
        except UserError as error:
            reason = str(error)
        if reason:
            raise UserError(
                f"{given}: --student={config.student.student} of {config.student.image_size} pixels"
                f" cannot be trained on images of {side}: {reason.rstrip('.')}. Give other sizes, "
                "or another student."
            )

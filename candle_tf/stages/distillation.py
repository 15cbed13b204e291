"""CANDLE's trainer, from a run's settings: losses, their balance, and what is trained beside the
student.

trainer = build_distillation_trainer(
    config, data, student, targets, calibrated, steps=steps, xla=False
)
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.config import Config
from candle_tf.data.targets import MapTargets, Targets
from candle_tf.errors import UserError
from candle_tf.methods.balance import BalanceInputs, TotalLoss, build_total_loss
from candle_tf.methods.distillation import (
    DistillationTrainer,
    TiedHead,
    build_trainer,
    tied_head,
)
from candle_tf.methods.feature_losses import FeatureLoss, TeacherFeatures, build_feature_loss
from candle_tf.methods.label_loss import (
    AdaptLabelWeight,
    LabelLoss,
    automatic_label_weight,
    balanced_softmax_of_epochs,
)
from candle_tf.methods.map_loss import MapLoss, build_map_loss
from candle_tf.methods.settings import ADAPTIVE, AUTO
from candle_tf.methods.trainer import Trainer
from candle_tf.stages.balance_floors import keep_balance_floors
from candle_tf.stages.balance_replay import keep_balance_replay
from candle_tf.stages.calibrate import Calibrated
from candle_tf.stages.label_shares import label_shares
from candle_tf.stages.prepare import Data
from candle_tf.teachers.source_classes import draw_rows, source_classifier

# Rows of features that prototypes are made from, and fewer of more features than these, as all are
# in memory.
_PROTOTYPE_ROWS = 49_152
_PROTOTYPE_FEATURES = 2048


def build_distillation_trainer(
    config: Config,
    data: Data,
    student: tf.keras.Model,
    targets: Targets | None,
    calibrated: Calibrated | None,
    *,
    steps: int,
    xla: bool,
) -> DistillationTrainer:
    """What trains the student, its projector and the balancer.

    Args:
        config: the run's settings, with --method=candle.
        data: the prepared split.
        student: whose classifier no optimizer moves with --student_head=tied.
        targets: the teacher's outputs.
        calibrated: the teacher, for --student_head=tied, --label_weight=auto and
            --feature_loss=source_kl.
        steps: of the whole training.
        xla: whether XLA compiles the training step.

    Raises:
        UserError: for settings that the student or the teacher does not suit.
    """
    if targets is None:
        raise ValueError("--method=candle needs the teacher's outputs")
    feature_loss = _build_feature_loss(config, targets, calibrated)
    total_loss = _build_total_loss(config, data, targets, feature_loss, steps)
    return build_trainer(
        student,
        data.classes,
        config.balance,
        config.optimizer,
        feature_loss=feature_loss,
        total_loss=total_loss,
        label_loss=_build_label_loss(config, data, calibrated, total_loss, steps),
        head=_build_head(config, calibrated),
        map_loss=_build_map_loss(config, student, targets, steps),
        replay=keep_balance_replay(config),
        steps=steps,
        seed=config.run.seed,
        xla=xla,
    )


def has_tied_head(config: Config) -> bool:
    """Whether the student has the teacher's classifier, folded into its own at the end."""
    return config.training.method == "candle" and config.balance.student_head == "tied"


def has_trained_classifier(config: Config, data: Data, calibrated: Calibrated | None) -> bool:
    """Whether the student's accuracy in training says anything: its classifier learns, or is the
    teacher's. Of features alone it keeps its random weights.

    Args:
        config: the run's settings.
        data: the prepared split.
        calibrated: the teacher, for --label_weight=auto.
    """
    if config.training.method != "candle" or has_tied_head(config):
        return True
    return config.balance.largest_lambda > 0 or label_weight(config, data, calibrated) > 0


def refuse_untrained_classifier(config: Config, data: Data, calibrated: Calibrated) -> None:
    """Refuses to train a student whose classifier would keep its random weights.

    What is 0 by its settings alone is refused with them (`config.refuse_random_classifier`).

    Args:
        config: the run's settings; not those of the first of two stages, whose classifier is
            trained by the second.
        data: the prepared split.
        calibrated: the teacher, whose accuracy decides on --label_weight=auto and adaptive.

    Raises:
        UserError: where no loss reaches the classifier.
    """
    if has_trained_classifier(config, data, calibrated):
        return
    known = "is 100 %" if calibrated.accuracy is not None else "is not known"
    raise UserError(
        f"--label_weight={config.balance.label_weight} is 0 here, as the teacher's accuracy "
        f"{known}, and --balance={config.balance.balance} has a lambda of 0 at every step: nothing "
        "would train the student's classifier. Give another --run_dir with --method=candle_crt, "
        "which trains it afterwards, a number above 0 for --label_weight, or a lambda above 0."
    )


def _build_total_loss(
    config: Config, data: Data, targets: Targets, feature_loss: FeatureLoss, steps: int
) -> TotalLoss:
    inputs = BalanceInputs(
        lambda: (block["teacher_logits"] for block in targets.blocks()),
        feature_loss.reference,
        data.counts,
        config.data.sampler,
        keep_balance_floors(config),
        feature_of_mean=feature_loss.of_mean,
        epochs=config.training.epochs,
        steps_in_epoch=steps // config.training.epochs,
        sampler_start=config.data.sampler_start,
        seed=config.run.seed,
    )
    return build_total_loss(config.balance, inputs)


def _build_map_loss(
    config: Config, student: tf.keras.Model, targets: Targets, steps: int
) -> MapLoss | None:
    if not config.maps.map_weight:
        return None
    if not isinstance(targets, MapTargets):
        raise ValueError("--map_weight needs the teacher's maps")
    _, dimensions = targets.map_shape
    return build_map_loss(
        student, config.maps, dimensions=dimensions, steps=steps, seed=config.run.seed
    )


def _build_head(config: Config, calibrated: Calibrated | None) -> TiedHead | None:
    """The teacher's classifier in place of the student's."""
    if not has_tied_head(config):
        return None
    if calibrated is None:
        raise ValueError("--student_head=tied needs the calibrated teacher")
    return tied_head(calibrated.classifier)


def _build_label_loss(
    config: Config,
    data: Data,
    calibrated: Calibrated | None,
    total_loss: TotalLoss,
    steps: int,
) -> LabelLoss | None:
    weight = label_weight(config, data, calibrated)
    given = config.balance.label_weight
    if given in (AUTO, ADAPTIVE):
        _tell_label_weight(given, weight, data, calibrated)
    if given != ADAPTIVE and not weight:
        return None
    held = _weight_variable(weight) if given == ADAPTIVE else weight
    # In the unit of the other losses: nats, or the loss of a student that knows nothing.
    unit = float(np.log(max(data.classes, 2))) if total_loss.is_relative else 1.0
    shares = label_shares(config, data)
    return LabelLoss(balanced_softmax_of_epochs(shares, steps, unit), held, steps)


def _weight_variable(value: float) -> tf.Variable:
    # All replicas assign the same value.
    once = tf.VariableAggregation.ONLY_FIRST_REPLICA
    return tf.Variable(
        value, trainable=False, dtype=tf.float32, name="label_weight", aggregation=once
    )


def label_weight_callbacks(
    config: Config, data: Data, calibrated: Calibrated | None, trainer: Trainer
) -> list[AdaptLabelWeight]:
    """What changes the weight of the labels after each epoch, with --label_weight=adaptive.

    Args:
        config: the run's settings.
        data: the prepared split.
        calibrated: the teacher; its accuracy is known, as there are validation images.
        trainer: of the student.
    """
    weight = getattr(trainer, "label_weight", None)
    if config.training.method != "candle" or weight is None:
        return []
    if calibrated is None or calibrated.accuracy is None:
        raise ValueError("--label_weight=adaptive needs the teacher's accuracy")
    return [AdaptLabelWeight(weight, calibrated.accuracy, data.classes)]


def label_weight(config: Config, data: Data, calibrated: Calibrated | None) -> float:
    """The share of CANDLE's total loss that is on labels, in [0, 1].

    Args:
        config: the run's settings.
        data: the prepared split.
        calibrated: the teacher, for --label_weight=auto; 0 where its accuracy is not known.

    Returns:
        Of --label_weight=adaptive the one of the first epoch.
    """
    if config.balance.label_weight not in (AUTO, ADAPTIVE):
        return float(config.balance.label_weight)
    if calibrated is None:
        raise ValueError(f"--label_weight={config.balance.label_weight} needs the teacher")
    if calibrated.accuracy is None:
        return 0.0
    return automatic_label_weight(calibrated.accuracy, data.classes)


def _tell_label_weight(
    given: str, weight: float, data: Data, calibrated: Calibrated | None
) -> None:
    accuracy = calibrated.accuracy if calibrated else None
    if accuracy is None:
        logging.info(
            "--label_weight=%s: no class has two images to tell the teacher's accuracy by, so no "
            "part of the total loss is on labels",
            given,
        )
        return
    logging.info(
        "--label_weight=%s: the teacher's accuracy on %s images is %.1f %%, so %.2f of the total "
        "loss is on labels%s",
        given,
        "validation" if len(data.validation) else "held-out training",
        100 * accuracy,
        weight,
        " at first" if given == ADAPTIVE else "",
    )


def _build_feature_loss(
    config: Config, targets: Targets, calibrated: Calibrated | None
) -> FeatureLoss:
    def blocks() -> Iterator[np.ndarray]:
        return (block["teacher_features"] for block in targets.blocks())

    def sample() -> np.ndarray:
        most = _PROTOTYPE_ROWS * _PROTOTYPE_FEATURES // max(targets.feature_size, 1)
        return draw_rows(blocks(), min(most, _PROTOTYPE_ROWS), config.run.seed)

    def classifier() -> tuple[np.ndarray, np.ndarray]:
        if calibrated is None:
            raise ValueError("--feature_loss=source_kl needs the calibrated teacher")
        return source_classifier(calibrated.parts, sample, config.run.seed)

    return build_feature_loss(config.balance, TeacherFeatures(blocks, classifier))

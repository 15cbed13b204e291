"""The training step with one of CANDLE's options, against that with the defaults."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods.balance import BalanceInputs, build_total_loss
from candle_tf.methods.distillation import DistillationTrainer, TiedHead, build_trainer
from candle_tf.methods.feature_losses import TeacherFeatures, build_feature_loss
from candle_tf.methods.label_loss import LabelLoss, balanced_softmax_of_epochs
from candle_tf.methods.map_loss import LEVELS, MapLoss, build_map_loss
from candle_tf.methods.settings import BalanceSettings, MapSettings, OptimizerSettings
from candle_tf.timing import alternate, images_per_second, ratio_of
from tools.benchmarks.step import build_step, one_batch, repeat_step
from tools.benchmarks.workload import Workload, new_student

_SOURCE_CLASSES = 1000
_MAP_DIMENSIONS = 64
# Only schedules and averages depend on it.
_TRAINING_STEPS = 1000


@dataclass(frozen=True)
class LossOption:
    """Settings of the losses that differ from the defaults.

    Attributes:
        balance: of `BalanceSettings`, by name.
        map_weight: of `MapSettings`.
        label_weight: of the third loss, as a number.
    """

    balance: Mapping[str, Any] = field(default_factory=dict)
    map_weight: float = 0.0
    label_weight: float = 0.0


OPTIONS = {
    "source_kl": LossOption({"feature_loss": "source_kl"}),
    "r2": LossOption({"feature_loss": "r2"}),
    "standardized": LossOption({"logit_loss": "standardized"}),
    "dist": LossOption({"logit_loss": "dist"}),
    "class_adversarial": LossOption({"balance": "class_adversarial"}),
    "schedule": LossOption({"balance": "schedule"}),
    "label_weight": LossOption(label_weight=0.1),
    "tied_head": LossOption({"feature_loss": "r2", "student_head": "tied"}),
    "map_weight": LossOption(map_weight=0.25),
    "together": LossOption(
        {"feature_loss": "source_kl", "balance": "class_adversarial", "student_head": "tied"},
        map_weight=0.25,
        label_weight=0.1,
    ),
}


def loss_option_ratios(
    load: Workload, repeats: int = 5, options: Mapping[str, LossOption] | None = None
) -> dict[str, Any]:
    """Time of a step with each option over that of CANDLE's step with the defaults.

    The batch and the teacher's outputs lie in memory, so it is the step alone.

    Args:
        load: the student and its batch; a round takes `load.steps` steps of each side.
        repeats: rounds.
        options: by name; None for `OPTIONS`.

    Returns:
        JSON-ready, "option_<name>" to median, min and max, images_per_s of both sides, the seconds
        and the student.
    """
    batch = teacher_batch(load)
    sides = {"default": LossOption(), **(OPTIONS if options is None else options)}
    steps = {
        name: repeat_step(build_step(build_option_trainer(load, option, batch), batch), load.steps)
        for name, option in sides.items()
    }
    seconds = alternate(steps, repeats, warmup=2)
    speeds = {name: images_per_second(times, load.images) for name, times in seconds.items()}
    default = seconds.pop("default")
    return {
        f"option_{name}": {
            **vars(ratio_of(times, default)),
            "images_per_s": {"default": speeds["default"], name: speeds[name]},
            "seconds": {"default": default, name: times},
            "student": asdict(load),
        }
        for name, times in seconds.items()
    }


def teacher_batch(load: Workload) -> dict[str, tf.Tensor]:
    """A batch with the teacher's outputs, whose values do not change the time."""
    rng = np.random.default_rng(0)
    positions = sum(level.positions for level in LEVELS)
    shapes = {
        "teacher_features": (load.batch_size, load.feature_size),
        "teacher_logits": (load.batch_size, load.classes),
        "teacher_maps": (load.batch_size, positions, _MAP_DIMENSIONS),
    }
    outputs = {
        name: tf.constant(rng.normal(size=shape), tf.float32) for name, shape in shapes.items()
    }
    return {**one_batch(load), **outputs}


def build_option_trainer(
    load: Workload, option: LossOption, batch: Mapping[str, tf.Tensor]
) -> DistillationTrainer:
    """CANDLE's trainer with an option, on the teacher's outputs of a batch."""
    settings = BalanceSettings(label_weight=str(option.label_weight), **option.balance)
    rng = np.random.default_rng(1)
    student = new_student(load)
    feature_loss = build_feature_loss(settings, _teacher_features(load, batch, rng))
    is_tied = settings.student_head == "tied"
    return build_trainer(
        student,
        load.classes,
        settings,
        OptimizerSettings(),
        feature_loss=feature_loss,
        total_loss=build_total_loss(settings, _balance_inputs(load, batch, feature_loss.reference)),
        label_loss=_label_loss(load, option.label_weight),
        head=_head(load, rng) if is_tied else None,
        map_loss=_map_loss(student, option.map_weight),
        steps=_TRAINING_STEPS,
        seed=0,
    )


def _head(load: Workload, rng: np.random.Generator) -> TiedHead:
    return TiedHead(_normal(rng, load.feature_size, load.classes), _normal(rng, load.classes))


def _map_loss(student: tf.keras.Model, weight: float) -> MapLoss | None:
    if not weight:
        return None
    return build_map_loss(
        student,
        MapSettings(map_weight=weight),
        dimensions=_MAP_DIMENSIONS,
        steps=_TRAINING_STEPS,
        seed=0,
    )


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def _teacher_features(
    load: Workload, batch: Mapping[str, tf.Tensor], rng: np.random.Generator
) -> TeacherFeatures:
    classifier = _normal(rng, load.feature_size, _SOURCE_CLASSES), _normal(rng, _SOURCE_CLASSES)
    return TeacherFeatures(
        blocks=lambda: [batch["teacher_features"].numpy()], source_classifier=lambda: classifier
    )


def _balance_inputs(
    load: Workload, batch: Mapping[str, tf.Tensor], feature_reference: float
) -> BalanceInputs:
    return BalanceInputs(
        lambda: [batch["teacher_logits"].numpy()],
        feature_reference,
        np.arange(1, load.classes + 1),
        "instance",
    )


def _label_loss(load: Workload, weight: float) -> LabelLoss | None:
    if not weight:
        return None
    shares = np.full((1, load.classes), 1 / load.classes)
    loss: Callable[..., tf.Tensor] = balanced_softmax_of_epochs(shares, _TRAINING_STEPS, 1.0)
    return LabelLoss(loss, weight, _TRAINING_STEPS)

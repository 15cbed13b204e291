"""The parts of a distillation, checked before hours of work: both losses and their balance.

    refuse_distillation_arguments(settings)          # what is registered, and its arguments
    try_distillation(settings, counts)               # computed on a few examples

A plugin may register any object under such a name; it would be called when the teacher has run.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods.balance import (
    BalanceInputs,
    balance_without_adversary,
    build_total_loss,
)
from candle_tf.methods.checked_losses import checked_losses, computed_in_graph, require_finite
from candle_tf.methods.feature_losses import FeatureLoss, TeacherFeatures, build_feature_loss
from candle_tf.methods.registry import BALANCES, FEATURE_LOSSES, LOGIT_LOSSES
from candle_tf.methods.settings import BalanceSettings
from candle_tf.methods.trainer import TOTAL_LOSS
from candle_tf.registry import refuse_signature

# Examples, sizes of the teacher's and the student's features, source classes and steps: made up.
_TRIED = 5
_TEACHER_SIZE = 8
_STUDENT_SIZE = 6
_SOURCE_CLASSES = 4
_STEPS = 10


def refuse_distillation_arguments(settings: BalanceSettings) -> None:
    """Refuses parts that cannot be called as they will be; nothing is computed.

    Args:
        settings: whose `logit_loss`, `feature_loss` and `balance` are checked.

    Raises:
        UserError: with the part's name and module, what it is called with and what it takes; for a
            logit loss without `of_uniform` or `of_mean`, or with a `needs_all_logits` that is no
            text.
    """
    refuse_logit_loss(settings.logit_loss)
    refuse_feature_loss(settings.feature_loss)
    refuse_balance(settings.balance)


def refuse_logit_loss(name: str) -> None:
    """Refuses what is no `LogitLoss`; see `refuse_distillation_arguments`."""
    loss, what = LOGIT_LOSSES[name], f"logit loss {LOGIT_LOSSES.title(name)}"
    for method in ("of_uniform", "of_mean"):
        if not hasattr(loss, method):
            raise UserError(
                f"{what} has no method {method}, which an object of "
                "candle_tf.methods.logit_losses.LogitLoss needs."
            )
        refuse_signature(f"{what}: `{method}`", getattr(loss, method), "blocks", "temperature")
    refuse_signature(what, loss, "teacher_logits", "student_logits", "temperature")
    told = getattr(loss, "needs_all_logits", "")
    if not isinstance(told, str):
        raise UserError(
            f"{what}: `needs_all_logits` is {told!r}; asked is a text: what the loss is of."
        )


def refuse_feature_loss(name: str) -> None:
    """Refuses a builder of other arguments; see `refuse_distillation_arguments`."""
    what = f"feature loss {FEATURE_LOSSES.title(name)}"
    refuse_signature(what, FEATURE_LOSSES[name], "settings", "teacher")


def refuse_balance(name: str) -> None:
    """Refuses a builder of other arguments; see `refuse_distillation_arguments`."""
    refuse_signature(f"balance {BALANCES.title(name)}", BALANCES[name], "settings", "inputs")


def try_distillation(settings: BalanceSettings, counts: np.ndarray) -> None:
    """Computes both losses and their balance on a few made-up examples.

    Args:
        settings: of the losses and their balance.
        counts: training images of each class, int `[C]`.

    Raises:
        UserError: as `refuse_distillation_arguments`, and for a part that raises, or gives
            values of another shape or type, or not finite.
    """
    classes = len(counts)
    logit_loss, feature_loss = settings.logit_loss, settings.feature_loss
    for kind, name, attempt in (
        ("logit loss", LOGIT_LOSSES.title(logit_loss), lambda: try_logit_loss(settings, classes)),
        ("feature loss", FEATURE_LOSSES.title(feature_loss), lambda: try_feature_loss(settings)),
        ("balance", BALANCES.title(settings.balance), lambda: try_balance(settings, counts)),
    ):
        try:
            attempt()
        except UserError:
            raise
        except Exception as error:
            # What a part of a user's own raises may be anything.
            raise UserError(
                f"{kind} {name} raised {type(error).__name__} for a few made-up examples: {error}."
            ) from error


def try_logit_loss(settings: BalanceSettings, classes: int) -> None:
    """Computes it, and both of its values for a constant prediction; see `try_distillation`."""
    refuse_logit_loss(settings.logit_loss)
    loss = LOGIT_LOSSES[settings.logit_loss]
    what = f"logit loss {LOGIT_LOSSES.title(settings.logit_loss)}"
    whole = checked_losses(loss, what)
    teacher, student = (_waves([_TRIED, classes], start) for start in (0, 1))
    each = computed_in_graph(
        lambda teacher, student: whole(teacher, student, settings.temperature), teacher, student
    )
    require_finite(what, each)
    for method in ("of_uniform", "of_mean"):
        value = getattr(loss, method)(iter([teacher]), settings.temperature)
        _require_number(f"{what}: `{method}`", value)


def try_feature_loss(settings: BalanceSettings) -> None:
    """Builds it and its projector, and computes it; see `try_distillation`."""
    name = settings.feature_loss
    refuse_feature_loss(name)
    what = f"feature loss {FEATURE_LOSSES.title(name)}"
    loss = _made_feature_loss(settings)
    _require_number(f"{what}: `reference`", loss.reference)
    _require_number(f"{what}: `of_mean`", loss.of_mean)
    features = tf.keras.Input([_STUDENT_SIZE])
    student = tf.keras.Model(features, {"features": tf.keras.layers.Activation("linear")(features)})
    projector = loss.build_projector(student, 0)
    whole = checked_losses(lambda features, teacher: loss(projector(features), teacher), what)
    each = computed_in_graph(
        whole, _waves([_TRIED, _STUDENT_SIZE], 0), _waves([_TRIED, _TEACHER_SIZE], 1)
    )
    require_finite(what, each)


def try_balance(settings: BalanceSettings, counts: np.ndarray) -> None:
    """Builds the total loss and its adversary, and balances two losses; see `try_distillation`."""
    refuse_balance(settings.balance)
    what = f"balance {BALANCES.title(settings.balance)}"
    total_loss = build_total_loss(settings, _made_inputs(counts))
    balancer = balance_without_adversary(settings, _STEPS) or total_loss.build_balancer(0)
    kl, fs = (tf.constant(np.linspace(low, 1.0, _TRIED), tf.float32) for low in (0.5, 0.2))
    labels = tf.range(_TRIED) % len(counts)
    step = tf.constant(1, tf.int64)
    logs = computed_in_graph(
        lambda kl, fs, labels, step: total_loss.balance(balancer, kl, fs, labels, step, None),
        *(kl, fs, labels, step),
    )
    if not isinstance(logs, dict) or not {TOTAL_LOSS, "kl", "fs", "lambda"} <= logs.keys():
        raise UserError(
            f"{what}: `balance` gave {sorted(logs) if isinstance(logs, dict) else type(logs)}; "
            f"asked are scalars {TOTAL_LOSS!r}, 'kl', 'fs' and 'lambda'."
        )
    for key in (TOTAL_LOSS, "lambda"):
        _require_number(f"{what}: {key!r} of `balance`", np.asarray(logs[key]))


def _made_feature_loss(settings: BalanceSettings) -> FeatureLoss:
    def classifier() -> tuple[np.ndarray, np.ndarray]:
        kernel = _waves([_TEACHER_SIZE, _SOURCE_CLASSES], 2)
        return kernel, np.zeros(_SOURCE_CLASSES, np.float32)

    teacher = TeacherFeatures(lambda: iter([_waves([_TRIED, _TEACHER_SIZE], 1)]), classifier)
    return build_feature_loss(settings, teacher)


def _made_inputs(counts: np.ndarray) -> BalanceInputs:
    logits = _waves([_TRIED, len(counts)], 0)
    return BalanceInputs(
        lambda: iter([logits]), 1.0, counts, "instance", epochs=2, steps_in_epoch=_STEPS // 2
    )


def _waves(shape: list[int], start: int) -> np.ndarray:
    """Float32 in [-1, 1]."""
    return np.sin(start + np.arange(np.prod(shape), dtype=np.float32)).reshape(shape)


def _require_number(what: str, value: Any) -> None:
    given = np.asarray(value)
    if given.shape != () or given.dtype.kind not in "fiu" or not np.isfinite(given):
        raise UserError(f"{what} is {value}; asked is one finite number.")

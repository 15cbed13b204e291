"""Losses of labels and teachers, checked: float32 of each example of a batch.

    try_losses("my_loss", settings, temperature, counts)     # before hours of work
    loss = checked_losses(loss, "method 'my_loss'")          # whenever it is traced

A loss of another shape would be averaged, and trained on, without a word.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError, find_user_error
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.method import (
    ContrastiveMethod,
    DistillationLosses,
    DistillationMethod,
    LabelMethod,
    TwoStageMethod,
)
from candle_tf.methods.registry import CALIBRATION_LOSSES, METHODS
from candle_tf.registry import refuse_signature

# Examples that a loss is computed on; as many as few data sets have classes, as [C] is no [B].
_TRIED = 5

Losses = Callable[..., tf.Tensor]


def checked_losses(loss: Losses, what: str) -> Losses:
    """The same loss, refused where it does not give float32 `[B]`.

    Args:
        loss: of logits `[B, C]` and anything else.
        what: the kind and title of the part, for the message.

    Returns:
        A function of the same arguments. It raises a `UserError` while it is traced.
    """

    def losses(logits: tf.Tensor, *others: Any) -> tf.Tensor:
        each = loss(logits, *others)
        _refuse_other_losses(what, each, logits)
        return each

    return losses


def check_teacher_losses(losses: DistillationLosses, what: str) -> DistillationLosses:
    """The same losses, each as of `checked_losses`.

    Raises:
        UserError: where they are no `DistillationLosses`.
    """
    _refuse_no_distillation(losses, what)
    return DistillationLosses(
        checked_losses(losses.of_labels, f"{what}: `of_labels`"),
        checked_losses(losses.of_teacher, f"{what}: `of_teacher`"),
        losses.label_weight,
    )


def refuse_arguments(name: str) -> None:
    """Refuses a method whose function takes other arguments than it will be called with.

    Args:
        name: in `registry.METHODS`.

    Raises:
        UserError: with both.
    """
    method, what = METHODS[name], f"method {METHODS.title(name)}"
    if isinstance(method, LabelMethod):
        refuse_signature(f"{what}: `build_loss`", method.build_loss, "settings", "counts")
    elif isinstance(method, DistillationMethod):
        build = method.build_losses
        refuse_signature(f"{what}: `build_losses`", build, "settings", "temperature", "counts")
    elif isinstance(method, ContrastiveMethod):
        refuse_signature(f"{what}: `build`", method.build, "settings", "counts")
    elif isinstance(method, TwoStageMethod):
        for part, names in ((method.first, METHODS), (method.loss, CALIBRATION_LOSSES)):
            if part not in names:
                raise UserError(f"{what} has a stage {part!r}, which is not registered.")
        refuse_arguments(method.first)
    elif name != "candle":
        refuse_signature(what, method, "logits", "labels", "counts")


def try_losses(
    name: str, settings: BaselineSettings, temperature: float, counts: np.ndarray
) -> None:
    """Computes the losses of a method on a few examples.

    Those of a method with a queue, and of "candle", are computed in training alone.

    Args:
        name: in `registry.METHODS`.
        settings: that the method is built with.
        temperature: T of a distillation.
        counts: training images of each class, int `[C]`.

    Raises:
        UserError: as `refuse_arguments`, and for losses other than float32 `[B]`, or not finite.
    """
    refuse_arguments(name)
    method, what, classes = METHODS[name], f"method {METHODS.title(name)}", len(counts)
    if isinstance(method, TwoStageMethod):
        try_losses(method.first, settings, temperature, counts)
    elif isinstance(method, LabelMethod):
        progress = {"progress": tf.constant(0.5)}
        try_loss(method.build_loss(settings, counts), what, classes, progress)
    elif isinstance(method, DistillationMethod):
        losses = method.build_losses(settings, temperature, counts)
        _refuse_no_distillation(losses, what)
        try_loss(losses.of_labels, f"{what}: `of_labels`", classes)
        logits = _made_logits(classes)
        checked_losses(losses.of_teacher, f"{what}: `of_teacher`")(logits, logits)
    elif name != "candle" and not isinstance(method, ContrastiveMethod):
        try_loss(method, what, classes, {"counts": counts})


def try_loss(
    loss: Losses, what: str, classes: int, others: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Computes a loss on a few examples, in a graph as in training.

    Args:
        loss: of logits `[B, C]`, labels `[B]` and others.
        what: the kind and title of the part, for the message.
        classes: C.
        others: what else the loss is called with, by place; the names are for the message.

    Raises:
        UserError: for one that takes other arguments, or gives other losses than float32 `[B]`,
            or some that are not finite.
    """
    refuse_signature(what, loss, "logits", "labels", *others)
    whole = checked_losses(loss, what)
    labels = tf.range(_TRIED) % classes
    each = computed_in_graph(
        lambda logits: whole(logits, labels, *others.values()), _made_logits(classes)
    )
    require_finite(what, each)


def require_finite(what: str, each: tf.Tensor) -> None:
    """Refuses losses of examples, float `[B]`, that are not finite.

    Raises:
        UserError: with the part and its values.
    """
    if not np.isfinite(each).all():
        raise UserError(f"{what} gave {each.numpy().tolist()}: its losses are not finite.")


def computed_in_graph(function: Callable[..., Any], *arguments: Any) -> Any:
    """What a function gives of tensors or arrays, in a graph as in training.

    Raises:
        UserError: that the function raises, without the places that TensorFlow adds to it.
    """
    try:
        return tf.function(function)(*map(tf.convert_to_tensor, arguments))
    except UserError as error:
        if explained := find_user_error(error):
            raise explained from error
        raise


def _refuse_no_distillation(losses: object, what: str) -> None:
    if not isinstance(losses, DistillationLosses):
        raise UserError(
            f"{what}: `build_losses` gave {type(losses).__name__} and not DistillationLosses."
        )


def _made_logits(classes: int) -> tf.Tensor:
    return tf.reshape(tf.sin(tf.range(_TRIED * classes, dtype=tf.float32)), [_TRIED, classes])


def _refuse_other_losses(what: str, each: Any, logits: tf.Tensor) -> None:
    is_tensor = tf.is_tensor(each)
    size = logits.shape[0]
    if (
        not is_tensor
        or each.dtype != tf.float32
        or each.shape.rank not in (1, None)
        or not each.shape.is_compatible_with([size])
    ):
        found = f"{each.dtype.name} {each.shape}" if is_tensor else type(each).__name__
        raise UserError(
            f"{what} gave {found} for logits {logits.shape}; asked is one loss of each example, "
            f"float32 [{size or 'B'}]."
        )

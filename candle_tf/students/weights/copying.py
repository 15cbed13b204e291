"""Copies the weights of one student into another of the same architecture.

copy_student_weights(source, student, classifier=False)
"""

import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError

CLASSIFIER = "logits"


def copy_student_weights(
    source: tf.keras.Model, target: tf.keras.Model, *, classifier: bool
) -> None:
    """Copies layer by layer; the target stays as it is where anything does not fit.

    The state of a kernel quantizer (BNext's temperature) is not copied: annealing starts again.

    Args:
        source: where the weights come from.
        target: a network with layers of the same names.
        classifier: whether the classifier is copied too.

    Raises:
        UserError: where a layer is missing or has other shapes, or a weight is not finite.
    """
    layers = [layer for layer in source.layers if classifier or layer.name != CLASSIFIER]
    pairs = [pair for layer in layers for pair in _pairs(layer, target)]
    for value, variable, name in pairs:
        if tuple(value.shape) != tuple(variable.shape):
            raise UserError(
                f"The weight {name} of the starting weights has the shape {list(value.shape)}, and "
                f"the student's {list(variable.shape)}: give weights of the same student and width."
            )
        check_finite(value, name)
    for value, variable, _ in pairs:
        variable.assign(value)


def check_finite(value: np.ndarray, name: str) -> None:
    """Refuses NaN and infinity.

    Raises:
        UserError: names the weight.
    """
    if not np.isfinite(value).all():
        raise UserError(
            f"The weight {name} of the starting weights holds a value that is not a finite number: "
            "the file is damaged, or its training diverged. Give other weights."
        )


def variables_of(layer: tf.keras.layers.Layer) -> list[tf.Variable]:
    """The weights of a layer, without the state of its kernel quantizer."""
    quantizer = getattr(layer, "kernel_quantizer", None)
    state = {variable.ref() for variable in getattr(quantizer, "weights", [])}
    return [variable for variable in layer.weights if variable.ref() not in state]


def _pairs(
    layer: tf.keras.layers.Layer, target: tf.keras.Model
) -> list[tuple[np.ndarray, tf.Variable, str]]:
    try:
        own = target.get_layer(layer.name)
    except ValueError:
        own = None
    ours = variables_of(layer)
    theirs = variables_of(own) if own is not None else []
    if len(ours) != len(theirs):
        raise UserError(
            f"The layer {layer.name} of the starting weights does not fit the student: give "
            "weights of the same student."
        )
    return [
        (ours.numpy(), theirs, f"{layer.name}/{weight_name(ours)}")
        for ours, theirs in zip(ours, theirs, strict=True)
    ]


def weight_name(variable: tf.Variable) -> str:
    """A weight's own name, such as "kernel"."""
    return str(variable.name.rsplit("/", 1)[-1].split(":")[0])

"""The one table of binary students by name.

student = build_student("reactnet_a", (64, 64, 3), classes=101, width=0.5, stem_stride=2)
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.students.architectures.birealnet import birealnet18
from candle_tf.students.architectures.bnext import bnext_l, bnext_m, bnext_s, bnext_t
from candle_tf.students.architectures.quicknet import quicknet, quicknet_large, quicknet_small
from candle_tf.students.architectures.reactnet import reactnet_a
from candle_tf.students.architectures.real_to_binary import real_to_binary
from candle_tf.students.layers.blocks import is_binary_conv

STUDENTS: dict[str, Callable[..., tf.keras.Model]] = {
    "reactnet_a": reactnet_a,
    "bnext_t": bnext_t,
    "bnext_s": bnext_s,
    "bnext_m": bnext_m,
    "bnext_l": bnext_l,
    "quicknet_small": quicknet_small,
    "quicknet": quicknet,
    "quicknet_large": quicknet_large,
    "birealnet18": birealnet18,
    "real_to_binary": real_to_binary,
}


def build_student(
    name: str, input_shape: tuple[int, int, int], classes: int, **options: Any
) -> tf.keras.Model:
    """Builds a student by name.

    Args:
        name: a key of `STUDENTS`.
        input_shape: (height, width, 3) in pixels.
        classes: number of classes.
        **options: the architecture's own arguments (width, stem_stride).

    Returns:
        Keras model from pixels, float [N, H, W, 3] in 0..255, to a dictionary with "features"
        (float [N, d_S]) and "logits" (float [N, classes]).

    Raises:
        UserError: for a name that is not in the table.
    """
    if name not in STUDENTS:
        raise UserError(f"--student={name} is not known; it is one of {', '.join(STUDENTS)}.")
    return STUDENTS[name](input_shape, classes, **options)


def binary_layers(model: tf.keras.Model) -> list[tf.keras.layers.Layer]:
    """The model's binary convolutions, in order."""
    return [layer for layer in model.layers if is_binary_conv(layer)]

"""The binary students by name. To add one: its function, and its line here.

student = build_student("reactnet_a", (64, 64, 3), classes=101, width=0.5, stem_stride=2)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from candle_tf.errors import UserError
from candle_tf.registry import Registry

if TYPE_CHECKING:
    import tensorflow as tf

STUDENTS: Registry[Callable[..., Any]] = Registry(
    {
        "reactnet_a": "candle_tf.students.architectures.reactnet:reactnet_a",
        "bnext_t": "candle_tf.students.architectures.bnext:bnext_t",
        "bnext_s": "candle_tf.students.architectures.bnext:bnext_s",
        "bnext_m": "candle_tf.students.architectures.bnext:bnext_m",
        "bnext_l": "candle_tf.students.architectures.bnext:bnext_l",
        "quicknet_small": "candle_tf.students.architectures.quicknet:quicknet_small",
        "quicknet": "candle_tf.students.architectures.quicknet:quicknet",
        "quicknet_large": "candle_tf.students.architectures.quicknet:quicknet_large",
        "birealnet18": "candle_tf.students.architectures.birealnet:birealnet18",
        "real_to_binary": "candle_tf.students.architectures.real_to_binary:real_to_binary",
        "float_resnet18": "candle_tf.students.architectures.float_resnet18:float_resnet18",
    }
)


def build_student(
    name: str, input_shape: tuple[int, int, int], classes: int, **options: Any
) -> "tf.keras.Model":
    """Builds a student by name.

    Args:
        name: one of `STUDENTS`.
        input_shape: (height, width, 3) in pixels.
        classes: number of classes.
        **options: the architecture's own arguments (width, stem_stride).

    Returns:
        Keras model from pixels, float [N, H, W, 3] in 0..255, to a dictionary with "features"
        (float [N, d_S]) and "logits" (float [N, classes]).

    Raises:
        UserError: for a name that is not registered.
    """
    if name not in STUDENTS:
        raise UserError(f"--student={name} is not known; it is one of {', '.join(STUDENTS)}.")
    return STUDENTS[name](input_shape, classes, **options)

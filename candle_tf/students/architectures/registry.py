"""The binary students by name. To add one: its function, and its line here.

student = build_student("reactnet_a", (64, 64, 3), classes=101, width=0.5, stem_stride=2)
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from candle_tf.errors import UserError
from candle_tf.registry import Registry, refuse_signature

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
        UserError: for a name that is not registered; for a function of other arguments, or one
            that returns something else.
    """
    if name not in STUDENTS:
        raise UserError(f"--student={name} is not known; it is one of {', '.join(STUDENTS)}.")
    build = STUDENTS[name]
    title = f"student {STUDENTS.title(name)}"
    refuse_signature(title, build, "input_shape", "classes", **options)
    student = build(input_shape, classes, **options)
    _refuse_other_outputs(title, student, classes)
    return student


def _refuse_other_outputs(title: str, student: Any, classes: int) -> None:
    import tensorflow as tf

    asked = f"'features' [None, any] and 'logits' [None, {classes}]"
    if not isinstance(student, tf.keras.Model):
        raise UserError(
            f"{title} returned {type(student).__name__} and not a Keras model with the outputs "
            f"{asked}."
        )
    # A model that is no functional one has no outputs before it is called.
    outputs = getattr(student, "output", None)
    if not isinstance(outputs, dict) or not {"features", "logits"} <= set(outputs):
        found = sorted(outputs) if isinstance(outputs, dict) else type(outputs).__name__
        raise UserError(
            f"{title} returned a model whose outputs are {found} and not a dictionary of {asked}; "
            "write tf.keras.Model(pixels, {'features': features, 'logits': logits})."
        )
    shapes = {name: list(outputs[name].shape) for name in ("features", "logits")}
    if len(shapes["features"]) != 2 or shapes["logits"] != [None, classes]:
        raise UserError(
            f"{title} has 'features' {shapes['features']} and 'logits' {shapes['logits']} for "
            f"{classes} classes; asked are {asked}."
        )

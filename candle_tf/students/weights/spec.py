"""Which student weights belong to.

spec = StudentSpec("reactnet_a", width=0.5)
student = spec.build(image_size=64, classes=101)
"""

from dataclasses import dataclass
from typing import Any

import tensorflow as tf

from candle_tf.students.architectures.registry import build_student

# As --width.
_WIDEST = 4


@dataclass(frozen=True)
class StudentSpec:
    """What decides the shapes of a student's weights, and how its stem was trained.

    Attributes:
        name: of the architecture.
        width: multiplier of its channels.
        stem_stride: 1 or 2; weights fit either, and work best with that of their training.
    """

    name: str
    width: float
    stem_stride: int = 2

    def build(self, image_size: int, classes: int) -> tf.keras.Model:
        """The student with new weights."""
        shape = (image_size, image_size, 3)
        return build_student(
            self.name, shape, classes, width=self.width, stem_stride=self.stem_stride
        )

    def __str__(self) -> str:
        return f"{self.name} at width {self.width:g}"


def parse_spec(name: Any, width: Any, stem_stride: Any) -> StudentSpec:
    """What a file says of its student, with the types that it must have.

    Raises:
        ValueError: for other types, and numbers that no student has.
    """
    if not isinstance(name, str):
        raise ValueError("the student's name is no text")
    if isinstance(width, bool) or not isinstance(width, int | float) or not 0 < width <= _WIDEST:
        raise ValueError(f"the student's width is no number above 0 and at most {_WIDEST}")
    if stem_stride not in (1, 2):
        raise ValueError("the stride of the student's stem is neither 1 nor 2")
    return StudentSpec(name, float(width), int(stem_stride))

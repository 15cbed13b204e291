"""Which student weights belong to.

spec = StudentSpec("reactnet_a", width=0.5)
student = spec.build(image_size=64, classes=101)
"""

from dataclasses import dataclass

import tensorflow as tf

from candle_tf.students.architectures.registry import build_student


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

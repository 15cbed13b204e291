"""A plugin with a student and a teacher that cost seconds where a published one costs a minute.

For tests of what happens around them: `--plugin=tests.tiny_parts --student=tiny_student
--teacher=tiny_teacher`. In a process of the tests themselves, importing this module registers both.
"""

from typing import Any

from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.teachers.registry import TEACHERS

CHANNELS = 64


def tiny_student(
    input_shape: tuple[int, int, int], classes: int, *, width: float = 1.0, stem_stride: int = 2
) -> Any:
    """Two binary 3x3 convolutions with shortcuts after a float stem; mostly binary weights."""
    import tensorflow as tf

    from candle_tf.students.layers.blocks import Shift, batch_norm, binary_conv, scaled_channels
    from candle_tf.students.layers.pooling import GlobalMeanPool
    from candle_tf.students.layers.quantizers import ApproxSign

    channels = scaled_channels(CHANNELS, width)
    pixels = tf.keras.Input(input_shape, name="pixels")
    x = tf.keras.layers.Rescaling(1 / 127.5, -1.0, name="rescale")(pixels)
    stem = tf.keras.layers.Conv2D(channels, 3, stem_stride, "same", use_bias=False, name="stem")
    x = batch_norm(stem(x), "stem_bn")
    for number in range(2):
        signs = ApproxSign(name=f"sign{number}")(Shift(name=f"shift{number}")(x))
        y = binary_conv(signs, channels, kernel_size=3, strides=1, name=f"conv{number}")
        x = tf.keras.layers.Add(name=f"add{number}")([x, batch_norm(y, f"bn{number}")])
    features = GlobalMeanPool(name="features")(x)
    logits = tf.keras.layers.Dense(classes, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="tiny_student")


def tiny_teacher(choice: str, weights: str, sha256: str) -> Any:  # noqa: ARG001
    """One convolution with random weights of a fixed seed."""
    import tensorflow as tf

    from candle_tf.teachers.backbones import Backbone

    pixels = tf.keras.Input([None, None, 3])
    kernels = tf.keras.initializers.GlorotUniform(seed=0)
    conv = tf.keras.layers.Conv2D(
        32, 3, 2, "same", activation="relu", kernel_initializer=kernels, name="conv"
    )
    return Backbone(tf.keras.Model(pixels, conv(pixels)), preprocess=lambda pixels: pixels / 255.0)


STUDENTS.register("tiny_student", tiny_student)
TEACHERS.register("tiny_teacher", tiny_teacher)

"""A plugin for tests: a student and a teacher that take no time to build."""

from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.teachers.registry import TEACHERS


def build_tiny_student(input_shape, classes, *, width=1.0, stem_stride=2):  # noqa: ARG001
    """A float stem and two binary convolutions with batch norm."""
    import tensorflow as tf

    from candle_tf.students.layers.blocks import Shift, batch_norm, binary_conv
    from candle_tf.students.layers.pooling import GlobalMeanPool
    from candle_tf.students.layers.quantizers import ApproxSign

    pixels = tf.keras.Input(input_shape, name="pixels")
    x = tf.keras.layers.Rescaling(1 / 127.5, -1.0, name="rescale")(pixels)
    x = tf.keras.layers.Conv2D(16, 3, stem_stride, "same", use_bias=False, name="stem")(x)
    x = batch_norm(x, "stem_bn")
    for number in range(2):
        signs = ApproxSign(name=f"sign{number}")(Shift(name=f"shift{number}")(x))
        y = binary_conv(signs, 16, kernel_size=3, strides=1, name=f"conv{number}")
        x = x + batch_norm(y, f"bn{number}")
    features = GlobalMeanPool(name="features")(x)
    logits = tf.keras.layers.Dense(classes, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="tiny_student")


STUDENTS.register("tiny_student", build_tiny_student)


def load_tiny_teacher(choice, weights, sha256):  # noqa: ARG001
    """A random convolution."""
    import tensorflow as tf

    from candle_tf.teachers.backbones import Backbone

    tf.keras.utils.set_random_seed(0)
    pixels = tf.keras.Input([None, None, 3])
    maps = tf.keras.layers.Conv2D(32, 3, 2, "same", activation="relu")(pixels)
    return Backbone(tf.keras.Model(pixels, maps), preprocess=lambda pixels: pixels / 255.0)


TEACHERS.register("tiny_teacher", load_tiny_teacher)

"""ResNet-18 in full precision, in the layout of Bi-Real Net 18: no 1-bit student, but its teacher.

model = float_resnet18((64, 64, 3), classes=101, width=0.5)
model(pixels)["logits"]                 # pixels: float [N, 64, 64, 3] in 0..255

A run of it is a teacher that has seen nothing but the data set (`--teacher=run:FOLDER`), and tells
what 1-bit weights and activations cost.
"""

import tensorflow as tf

from candle_tf.students.architectures.resnet18 import KERNEL, batch_norm, resnet18, shortcut


def _block(x: tf.Tensor, filters: int, stride: int, name: str) -> tf.Tensor:
    """3x3 convolution, batch normalisation, sum with the shortcut, ReLU."""
    y = tf.keras.layers.Conv2D(
        filters,
        KERNEL,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv",
    )(x)
    y = batch_norm(y, f"{name}_bn")
    y = tf.keras.layers.Add(name=f"{name}_add")([y, shortcut(x, filters, stride, name)])
    return tf.keras.layers.ReLU(name=f"{name}_relu")(y)


def float_resnet18(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds a ResNet-18 (He et al., CVPR 2016) with one shortcut per convolution.

    Args:
        input_shape: (height, width, 3) in pixels.
        classes: number of classes.
        width: multiplier of all channel counts.
        stem_stride: 2 as published (the stem divides the size by 4), 1 for small images (by 2).

    Returns:
        Keras model from pixels, float [N, H, W, 3] in 0..255, to a dictionary with "features"
        (float [N, d_S], pooled) and "logits" (float [N, classes]). Scaling is inside.

    Raises:
        UserError: for another stem_stride.
    """
    activation = tf.keras.layers.ReLU(name="stem_relu")
    return resnet18("float_resnet18", _block, input_shape, classes, width, stem_stride, activation)

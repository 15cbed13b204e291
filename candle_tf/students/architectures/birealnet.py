"""Bi-Real Net 18 (Liu et al., ECCV 2018): a binary ResNet-18 with a shortcut for each convolution.

model = birealnet18((64, 64, 3), classes=101, width=0.5)
model(pixels)["logits"]                 # pixels: float [N, 64, 64, 3] in 0..255
"""

import tensorflow as tf

from candle_tf.students.architectures.resnet18 import batch_norm, binary_conv3x3, resnet18, shortcut
from candle_tf.students.layers.quantizers import ApproxSign, ScaledSign


def _block(x: tf.Tensor, filters: int, stride: int, name: str) -> tf.Tensor:
    """Sign, binary 3x3, batch normalisation, sum with the shortcut; no activation function."""
    y = ApproxSign(name=f"{name}_sign")(x)
    y = binary_conv3x3(y, filters, stride, ScaledSign(), f"{name}_conv")
    y = batch_norm(y, f"{name}_bn")
    return tf.keras.layers.Add(name=f"{name}_add")([y, shortcut(x, filters, stride, name)])


def birealnet18(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds Bi-Real Net 18, with larq-zoo's paddings, epsilons and normalisation of pixels.

    Binary convolutions are padded with 0 as published, on maps below 3x3 with 1 (see
    `binary_conv3x3`); the file for the device stays binary. Stem (7x7 and max-pool), the three 1x1
    shortcuts where the width doubles, and the classifier are in float.

    The gradient of a binary kernel is straight-through without its scale, as in the authors'
    PyTorch code. In the paper and in larq-zoo the gradient of each channel is multiplied by the
    scale, which Adam cancels.

    Args:
        input_shape: (height, width, 3) in pixels.
        classes: number of classes.
        width: multiplier of all channel counts (1.0 is the published network).
        stem_stride: 2 as published (the stem divides the size by 4), 1 for small images (by 2).

    Returns:
        Keras model from pixels, float [N, H, W, 3] in 0..255, to a dictionary with "features"
        (float [N, d_S], pooled) and "logits" (float [N, classes]). Scaling is inside.

    Raises:
        UserError: for another stem_stride.
    """
    return resnet18("birealnet18", _block, input_shape, classes, width, stem_stride)

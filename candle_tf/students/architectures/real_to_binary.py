"""Real-to-Binary Net (Martinez et al., ICLR 2020): binary convolutions scaled by a gate on their
real-valued input.

model = real_to_binary((64, 64, 3), classes=101, width=0.5)
model(pixels)["logits"]                 # pixels: float [N, 64, 64, 3] in 0..255
"""

import tensorflow as tf

from candle_tf.students.architectures.resnet18 import batch_norm, binary_conv3x3, resnet18, shortcut
from candle_tf.students.layers.pooling import GlobalMeanPool
from candle_tf.students.layers.quantizers import SteSign

# Input channels of a gate over the channels of its hidden layer.
GATE_RATIO = 8


def _gate(x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
    """Scales in (0, 1) from real activations, [N, H, W, C] to [N, 1, 1, filters].

    Mean over the image, C / 8 values with ReLU, sigmoid; in float, without biases. Source: the
    paper's section 4.3 (squeeze-and-excite across the binary convolution).
    """
    z = GlobalMeanPool(name=f"{name}_gate_pool")(x)
    z = tf.keras.layers.Dense(
        max(1, int(x.shape[-1]) // GATE_RATIO),
        activation="relu",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_gate_reduce",
    )(z)
    z = tf.keras.layers.Dense(
        filters,
        activation="sigmoid",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_gate_expand",
    )(z)
    return tf.keras.layers.Reshape((1, 1, filters), name=f"{name}_gate_reshape")(z)


def _block(x: tf.Tensor, filters: int, stride: int, name: str) -> tf.Tensor:
    """Batch normalisation, sign, binary 3x3, gate, PReLU, sum with the shortcut."""
    normal = batch_norm(x, f"{name}_bn")
    y = SteSign(name=f"{name}_sign")(normal)
    y = binary_conv3x3(y, filters, stride, SteSign(), f"{name}_conv")
    gate = _gate(normal, filters, name)
    y = tf.keras.layers.Multiply(name=f"{name}_gate_multiply")([y, gate])
    y = _prelu(f"{name}_prelu")(y)
    return tf.keras.layers.Add(name=f"{name}_add")([y, shortcut(x, filters, stride, name)])


def _prelu(name: str) -> tf.keras.layers.Layer:
    # One slope per channel: without shared axes there would be one per pixel too.
    return tf.keras.layers.PReLU(shared_axes=[1, 2], name=name)


def real_to_binary(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds Real-to-Binary Net, with larq-zoo's paddings, epsilons and normalisation of pixels.

    Binary convolutions have no scale of their own and are padded with 0 as published, on maps below
    3x3 with 1 (see `binary_conv3x3`); the file for the device stays binary. Stem (7x7 and
    max-pool), the three 1x1 shortcuts where the width doubles, the two dense layers of each gate
    and the classifier are in float.

    The paper's training in several phases, with a real-valued network as a teacher of the feature
    maps, is not part of the architecture.

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
    stem_activation = _prelu("stem_prelu")
    return resnet18(
        "real_to_binary", _block, input_shape, classes, width, stem_stride, stem_activation
    )

"""QuickNet (Bannink et al., MLSys 2021), small, normal and large: fast on the Larq Compute Engine.

model = quicknet_small((64, 64, 3), classes=101, width=0.5)
model(pixels)["logits"]                 # pixels: float [N, 64, 64, 3] in 0..255
"""

from typing import Any

import larq as lq
import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import batch_norm, scaled_channels
from candle_tf.students.layers.input_normalization import normalize
from candle_tf.students.layers.pooling import GlobalMeanPool
from candle_tf.students.layers.quantizers import SteSign

# Largest magnitude of weights and activations whose gradient passes; latent weights are clipped.
STRAIGHT_THROUGH_REGION = 1.25
# Channels of the first section over those of the stem's first convolution.
STEM_RATIO = 4


@tf.keras.utils.register_keras_serializable("candle_tf")
class BlurKernel(tf.keras.initializers.Initializer):
    """Depthwise kernel (1, 2, 1) x (1, 2, 1) / 16, the same for every channel.

    Source: "Making Convolutional Networks Shift-Invariant Again" (Zhang, ICML 2019).
    """

    def __call__(self, shape: Any, dtype: Any = None, **kwargs: Any) -> tf.Tensor:  # noqa: ARG002
        row = np.array([0.25, 0.5, 0.25])
        kernel = np.outer(row, row).reshape(3, 3, 1, 1)
        return tf.constant(np.broadcast_to(kernel, shape), dtype or tf.float32)


def _stem(x: tf.Tensor, filters: int, hidden: int, stride: int) -> tf.Tensor:
    """Float 3x3, then a depthwise-separable one with stride 2."""
    x = tf.keras.layers.Conv2D(
        hidden,
        3,
        strides=stride,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name="stem_conv",
    )(x)
    x = tf.keras.layers.ReLU(name="stem_relu")(_stem_batch_norm(x, "stem_bn"))
    x = tf.keras.layers.DepthwiseConv2D(
        3, strides=2, padding="same", use_bias=False, name="stem_depthwise"
    )(x)
    x = _stem_batch_norm(x, "stem_depthwise_bn", scale=False, center=False)
    x = tf.keras.layers.Conv2D(
        filters, 1, use_bias=False, kernel_initializer="he_normal", name="stem_pointwise"
    )(x)
    return _stem_batch_norm(x, "stem_pointwise_bn")


def _stem_batch_norm(x: tf.Tensor, name: str, **options: bool) -> tf.Tensor:
    # The published weights were trained with this epsilon in the stem and 1e-5 after it.
    return tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=name, **options)(x)


def _block(x: tf.Tensor, name: str) -> tf.Tensor:
    """Sign, binary 3x3, ReLU, batch normalisation, sum with the input."""
    y = SteSign(STRAIGHT_THROUGH_REGION, name=f"{name}_sign")(x)
    y = BinaryConv2D(
        int(x.shape[-1]),
        3,
        padding="same",
        pad_values=1.0,
        use_bias=False,
        kernel_quantizer=SteSign(STRAIGHT_THROUGH_REGION),
        kernel_initializer="glorot_normal",
        kernel_constraint=lq.constraints.WeightClip(STRAIGHT_THROUGH_REGION),
        name=f"{name}_conv",
    )(y)
    y = batch_norm(tf.keras.layers.ReLU(name=f"{name}_relu")(y), f"{name}_bn")
    return tf.keras.layers.Add(name=f"{name}_add")([y, x])


def _transition(x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
    """Halves the size and changes the channels, in float.

    ReLU, 2x2 max-pool with stride 1, fixed blur with stride 2, 1x1 convolution, batch
    normalisation: [N, H, W, C] to [N, H // 2, W // 2, filters].
    """
    x = tf.keras.layers.ReLU(name=f"{name}_relu")(x)
    x = tf.keras.layers.MaxPooling2D(2, strides=1, name=f"{name}_pool")(x)
    x = tf.keras.layers.DepthwiseConv2D(
        3,
        strides=2,
        padding="same",
        use_bias=False,
        depthwise_initializer=BlurKernel(),
        trainable=False,
        name=f"{name}_blur",
    )(x)
    x = tf.keras.layers.Conv2D(
        filters, 1, use_bias=False, kernel_initializer="glorot_normal", name=f"{name}_conv"
    )(x)
    return batch_norm(x, f"{name}_bn")


def _quicknet(
    name: str,
    blocks: tuple[int, ...],
    channels: tuple[int, ...],
    input_shape: tuple[int, int, int],
    classes: int,
    width: float,
    stem_stride: int,
) -> tf.keras.Model:
    _refuse_impossible(name, input_shape, stem_stride, transitions=len(channels) - 1)
    pixels = tf.keras.Input(input_shape, name="pixels")
    x = _stem(
        normalize(pixels),
        scaled_channels(channels[0], width),
        scaled_channels(channels[0] // STEM_RATIO, width),
        stem_stride,
    )
    number = 0
    for section, (count, filters) in enumerate(zip(blocks, channels, strict=True), start=1):
        if section > 1:
            x = _transition(x, scaled_channels(filters, width), f"transition{section - 1}")
        for _ in range(count):
            number += 1
            x = _block(x, f"block{number:02d}")
    x = tf.keras.layers.ReLU(name="head_relu")(x)
    features = GlobalMeanPool(name="features")(x)
    logits = tf.keras.layers.Dense(classes, kernel_initializer="glorot_normal", name="logits")(
        features
    )
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name=name)


def _refuse_impossible(
    name: str, input_shape: tuple[int, int, int], stem_stride: int, transitions: int
) -> None:
    if stem_stride not in (1, 2):
        raise UserError(
            f"--stem_stride={stem_stride} is not possible for {name}: give 2 (as published: with "
            "its depthwise convolution the stem divides the size by 4) or 1 (by 2)."
        )
    side = min(input_shape[:2])
    # Rounded up by the stem, down by the transitions.
    after_stem = -(-side // (2 * stem_stride))
    if after_stem < 2**transitions:
        least = 2 * stem_stride * (2**transitions - 1) + 1
        raise UserError(
            f"--image_size={side} is too small for {name} with "
            f"--stem_stride={stem_stride}: give at least {least}."
        )


def quicknet_small(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds QuickNetSmall: 16 binary convolutions with 32, 64, 256 and 512 channels.

    In each network of this module the stem, the transitions between the four sections (a fixed
    blur and a 1x1 convolution each) and the classifier are in float. Epsilons and normalisation of
    pixels are larq-zoo's, so that its weights can be used.

    Args:
        input_shape: (height, width, 3) in pixels, at least 29 each, or 15 with stem_stride 1.
        classes: number of classes.
        width: multiplier of all channel counts (1.0 is the published network).
        stem_stride: stride of the stem's first convolution: 2 as published (the stem divides the
            size by 4), 1 for small images (by 2).

    Returns:
        Keras model from pixels, float [N, H, W, 3] in 0..255, to a dictionary with "features"
        (float [N, d_S], pooled) and "logits" (float [N, classes]). Scaling is inside.

    Raises:
        UserError: for another stem_stride, and for images too small for it.
    """
    blocks, channels = (4, 4, 4, 4), (32, 64, 256, 512)
    return _quicknet("quicknet_small", blocks, channels, input_shape, classes, width, stem_stride)


def quicknet(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds QuickNet: 16 binary convolutions with 64, 128, 256 and 512 channels.

    Args, Returns, Raises: as `quicknet_small`.
    """
    blocks, channels = (4, 4, 4, 4), (64, 128, 256, 512)
    return _quicknet("quicknet", blocks, channels, input_shape, classes, width, stem_stride)


def quicknet_large(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds QuickNetLarge: 32 binary convolutions with 64, 128, 256 and 512 channels.

    Args, Returns, Raises: as `quicknet_small`.
    """
    blocks, channels = (6, 8, 12, 6), (64, 128, 256, 512)
    return _quicknet("quicknet_large", blocks, channels, input_shape, classes, width, stem_stride)

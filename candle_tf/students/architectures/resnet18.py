"""The layout of Bi-Real Net 18 and Real-to-Binary Net: ResNet-18, one shortcut per convolution.

model = resnet18("birealnet18", block, (64, 64, 3), classes=101, width=0.5, stem_stride=2)

A block is `block(x, filters, stride, name)`. There are sixteen in sequence, four each with 64, 128,
256 and 512 channels; the first block of each stage but the first has stride 2.
"""

from collections.abc import Callable
from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import scaled_channels
from candle_tf.students.layers.input_normalization import normalize
from candle_tf.students.layers.pooling import GlobalMeanPool

CHANNELS = 64
STAGES = 4
BLOCKS_PER_STAGE = 4
# Side of the binary kernels.
KERNEL = 3

Block = Callable[[tf.Tensor, int, int, str], tf.Tensor]


def resnet18(
    name: str,
    block: Block,
    input_shape: tuple[int, int, int],
    classes: int,
    width: float,
    stem_stride: int,
    stem_activation: tf.keras.layers.Layer | None = None,
) -> tf.keras.Model:
    """Builds a binary ResNet-18 around a block.

    Args:
        name: of the model.
        block: one binary 3x3 convolution with its normalisation, activations and shortcut.
        input_shape: (height, width, 3) in pixels.
        classes: number of classes.
        width: multiplier of all channel counts.
        stem_stride: stride of the stem's 7x7 convolution, 2 or 1; its max-pool halves again.
        stem_activation: layer between the stem's batch normalisation and its max-pool.

    Returns:
        Keras model from pixels, float [N, H, W, 3] in 0..255, to a dictionary with "features"
        (float [N, d_S], pooled) and "logits" (float [N, classes]).

    Raises:
        UserError: for another stem_stride.
    """
    if stem_stride not in (1, 2):
        raise UserError(f"--stem_stride={stem_stride} is not possible for {name}: give 2 or 1.")
    pixels = tf.keras.Input(input_shape, name="pixels")
    filters = scaled_channels(CHANNELS, width)
    x = tf.keras.layers.Conv2D(
        filters, 7, strides=stem_stride, padding="same", use_bias=False, name="stem_conv"
    )(normalize(pixels))
    x = batch_norm(x, "stem_bn")
    if stem_activation is not None:
        x = stem_activation(x)
    x = tf.keras.layers.MaxPooling2D(3, strides=2, padding="same", name="stem_pool")(x)
    for index in range(STAGES * BLOCKS_PER_STAGE):
        stage, position = divmod(index, BLOCKS_PER_STAGE)
        stride = 2 if stage > 0 and position == 0 else 1
        x = block(x, filters * 2**stage, stride, f"block{index + 1:02d}")
    features = GlobalMeanPool(name="features")(x)
    logits = tf.keras.layers.Dense(classes, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name=name)


def batch_norm(x: tf.Tensor, name: str) -> tf.Tensor:
    """Batch normalisation with the epsilon of the published weights, Keras's own 1e-3.

    The momentum is 0.9, so that statistics are up to date after a short training too; it does not
    change what a trained network computes.
    """
    return tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-3, name=name)(x)


def shortcut(x: tf.Tensor, filters: int, stride: int, name: str) -> tf.Tensor:
    """A block's shortcut: x itself or, with stride 2, a float projection of it.

    Args:
        x: the block's input, float [N, H, W, C].
        filters: channels of the block's output; C where stride is 1.
        stride: 1 or 2.
        name: of the block.

    Returns:
        Float [N, ceil(H / stride), ceil(W / stride), filters]. With stride 2: 2x2 average pool (at
        an odd border of what is there), 1x1 convolution in float, batch normalisation.
    """
    if stride == 1:
        return x
    x = tf.keras.layers.AveragePooling2D(2, padding="same", name=f"{name}_shortcut_pool")(x)
    x = tf.keras.layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_shortcut_conv")(x)
    return batch_norm(x, f"{name}_shortcut_bn")


def binary_conv3x3(
    x: tf.Tensor, filters: int, strides: int, kernel_quantizer: Any, name: str
) -> tf.Tensor:
    """A 3x3 convolution of +-1 activations with a one-bit kernel, padded with 0 as published.

    On the device padding with 0 is a correction after a convolution of bits. It costs nothing here,
    where a float sum follows each of them. But the engine corrects wrongly where the map is smaller
    than the kernel: such a map, which the published networks at 224 pixels do not have, is padded
    with 1. Latent weights are clipped to [-1, 1].

    Args:
        x: activations in {-1, +1}, float [N, H, W, C].
        filters: output channels.
        strides: 1 or 2.
        kernel_quantizer: layer with a straight-through region of [-1, 1].
        name: the layer's name; exported files are checked against it.

    Returns:
        Float [N, ceil(H / strides), ceil(W / strides), filters].
    """
    return BinaryConv2D(
        filters,
        KERNEL,
        strides=strides,
        padding="same",
        pad_values=0.0 if min(x.shape[1:3]) >= KERNEL else 1.0,
        use_bias=False,
        kernel_quantizer=kernel_quantizer,
        kernel_initializer="glorot_normal",
        kernel_constraint=lq.constraints.WeightClip(1.0),
        name=name,
    )(x)

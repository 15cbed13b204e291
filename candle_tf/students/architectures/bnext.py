"""BNext-T/S/M/L (Guo et al., arXiv 2211.12933): ReActNet's layout with gated binary units.

model = bnext_t((64, 64, 3), classes=101, width=0.5)
model(pixels)["logits"]                 # pixels: float [N, 64, 64, 3] in 0..255

The kernels are annealed to signs (`candle_tf.students.layers.annealed_sign`): a model is binary
only when each kernel quantizer is hard.

With 1,000 classes BNext-T has 28.25 M binary and 2.60 M float parameters. The published total of
30.86 M has 8,960 more: slopes of PReLUs that the authors' network defines and never applies (one
per channel of the stem and of each unit without attention). They are left out here.
"""

import larq as lq
import tensorflow as tf

from candle_tf.students.layers.annealed_sign import BNextKernelSign
from candle_tf.students.layers.blocks import Shift, batch_norm, binary_conv, scaled_channels
from candle_tf.students.layers.gates import Mix, gate
from candle_tf.students.layers.pooling import GlobalMeanPool

# Activations and latent weights: gradients pass up to this magnitude; latent weights are clipped.
CLIP = 1.5
# Blocks in each of the five stages; each stage doubles the width, all but the first halve the size.
TINY_STAGES = SMALL_STAGES = (1, 2, 2, 6, 2)
MIDDLE_STAGES = (1, 4, 4, 8, 4)
LARGE_STAGES = (1, 4, 4, 16, 4)


def annealed_conv(
    x: tf.Tensor, filters: int, kernel_size: int, strides: int, name: str
) -> tf.Tensor:
    """A convolution of +-1 activations with a kernel that is annealed to +-1.

    Padding is "same" with +1, so that activations stay bit-packed on the device (BNext itself pads
    with 0). Latent weights are initialized near 0 and clipped to [-1.5, 1.5].

    Args:
        x: activations in {-1, +1}, float [N, H, W, C].
        filters: output channels.
        kernel_size: side of the square kernel.
        strides: 1 or 2.
        name: the layer's name.

    Returns:
        Float [N, ceil(H / strides), ceil(W / strides), filters].
    """
    return binary_conv(
        x,
        filters,
        kernel_size,
        strides,
        name,
        kernel_quantizer=BNextKernelSign(),
        clip=CLIP,
        kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.001),
    )


def _prelu(x: tf.Tensor, name: str) -> tf.Tensor:
    """One slope per channel, initialized to 0.25 as in PyTorch."""
    slope = tf.keras.initializers.Constant(0.25)
    return tf.keras.layers.PReLU(slope, shared_axes=[1, 2], name=name)(x)


def _pool(x: tf.Tensor, stride: int, name: str) -> tf.Tensor:
    if stride == 1:
        return x
    return tf.keras.layers.AveragePooling2D(2, padding="same", name=name)(x)


def _unit(x: tf.Tensor, kernel_size: int, stride: int, attention: bool, name: str) -> tf.Tensor:
    """Binary convolution of equal width, gated, with a shortcut.

    With `attention` the gated branch is multiplied by the shortcut, which is then a PReLU of x.
    """
    pooled = _pool(x, stride, f"{name}_pool")
    shortcut = pooled
    if attention:
        shortcut = _pool(_prelu(x, f"{name}_shortcut_prelu"), stride, f"{name}_shortcut_pool")

    y = Shift(name=f"{name}_shift")(x)
    y = lq.quantizers.SteSign(clip_value=CLIP, name=f"{name}_sign")(y)
    y = annealed_conv(y, int(x.shape[-1]), kernel_size, stride, f"{name}_conv")
    y = _prelu(batch_norm(y, f"{name}_bn"), f"{name}_prelu")
    y = y * gate(Mix(name=f"{name}_mix")([pooled, y]), name)
    if attention:
        y = y * shortcut
    return batch_norm(y, f"{name}_gated_bn") + shortcut


def _block(x: tf.Tensor, doubles: bool, stride: int, attention: bool, name: str) -> tf.Tensor:
    """A 3x3 unit, then a 1x1 unit or, where the width doubles, two that are concatenated."""
    y = _unit(x, 3, stride, attention, f"{name}_spatial")
    if not doubles:
        return _unit(y, 1, 1, False, f"{name}_point")
    left = _unit(y, 1, 1, False, f"{name}_point_left")
    right = _unit(y, 1, 1, False, f"{name}_point_right")
    return tf.keras.layers.Concatenate(name=f"{name}_concat")([left, right])


def _bnext(
    name: str,
    stem_channels: int,
    stages: tuple[int, ...],
    input_shape: tuple[int, int, int],
    classes: int,
    width: float,
    stem_stride: int,
) -> tf.keras.Model:
    pixels = tf.keras.Input(input_shape, name="pixels")
    x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
    x = tf.keras.layers.Conv2D(
        scaled_channels(stem_channels, width),
        3,
        strides=stem_stride,
        padding="same",
        use_bias=False,
        name="stem_conv",
    )(x)
    x = batch_norm(x, "stem_bn")
    number = 0
    for stage, blocks in enumerate(stages):
        for position in range(blocks):
            number += 1
            first = position == 0
            x = _block(
                x,
                doubles=first,
                stride=2 if first and stage > 0 else 1,
                attention=number % 2 == 0,
                name=f"block{number:02d}",
            )
    x = _prelu(x, "head_prelu")
    features = GlobalMeanPool(name="features")(x)
    logits = tf.keras.layers.Dense(classes, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name=name)


def bnext_t(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds BNext-T: 13 blocks, 32 to 1024 channels.

    Args:
        input_shape: (height, width, 3) in pixels.
        classes: number of classes.
        width: multiplier of all channel counts (1.0 is the published network).
        stem_stride: stride of the float stem, 2 as published, 1 for small images.

    Returns:
        Keras model from pixels, float [N, H, W, 3] in 0..255, to a dictionary with "features"
        (float [N, d_S], pooled) and "logits" (float [N, classes]). Scaling to -1..1 is inside.
    """
    return _bnext("bnext_t", 32, TINY_STAGES, input_shape, classes, width, stem_stride)


def bnext_s(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds BNext-S: 13 blocks, 48 to 1536 channels; see `bnext_t`."""
    return _bnext("bnext_s", 48, SMALL_STAGES, input_shape, classes, width, stem_stride)


def bnext_m(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds BNext-M: 21 blocks, 48 to 1536 channels; see `bnext_t`."""
    return _bnext("bnext_m", 48, MIDDLE_STAGES, input_shape, classes, width, stem_stride)


def bnext_l(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds BNext-L: 29 blocks, 64 to 2048 channels; see `bnext_t`."""
    return _bnext("bnext_l", 64, LARGE_STAGES, input_shape, classes, width, stem_stride)

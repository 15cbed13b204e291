"""ReActNet-A (Liu et al., ECCV 2020): MobileNet's layout, every inner convolution binary.

model = reactnet_a((64, 64, 3), classes=101, width=0.5)
model(pixels)["logits"]                 # pixels: float [N, 64, 64, 3] in 0..255
"""

import tensorflow as tf

from candle_tf.students.layers.blocks import RPReLU, Shift, batch_norm, binary_conv, scaled_channels
from candle_tf.students.layers.pooling import GlobalMeanPool
from candle_tf.students.layers.quantizers import ApproxSign

# (output channels at width 1, stride) of the 13 blocks; the stem gives 32 channels.
STEM_CHANNELS = 32
BLOCKS = (
    (64, 1),
    (128, 2),
    (128, 1),
    (256, 2),
    (256, 1),
    (512, 2),
    *((512, 1),) * 5,
    (1024, 2),
    (1024, 1),
)


def _shortcut(x: tf.Tensor, stride: int, name: str) -> tf.Tensor:
    if stride == 1:
        return x
    return tf.keras.layers.AveragePooling2D(2, padding="same", name=name)(x)


def _pointwise_branch(sign: tf.Tensor, shortcut: tf.Tensor, name: str) -> tf.Tensor:
    y = binary_conv(sign, int(sign.shape[-1]), kernel_size=1, strides=1, name=f"{name}_conv")
    return batch_norm(y, f"{name}_bn") + shortcut


def _block(x: tf.Tensor, filters: int, stride: int, name: str) -> tf.Tensor:
    """Binary 3x3, then one binary 1x1 or, where the width doubles, two that are concatenated."""
    channels = int(x.shape[-1])
    y = ApproxSign(name=f"{name}_spatial_sign")(Shift(name=f"{name}_spatial_shift")(x))
    y = binary_conv(y, channels, kernel_size=3, strides=stride, name=f"{name}_spatial_conv")
    y = batch_norm(y, f"{name}_spatial_bn") + _shortcut(x, stride, f"{name}_pool")
    y = RPReLU(name=f"{name}_spatial_rprelu")(y)

    sign = ApproxSign(name=f"{name}_point_sign")(Shift(name=f"{name}_point_shift")(y))
    if filters == channels:
        y = _pointwise_branch(sign, y, f"{name}_point")
    else:
        left = _pointwise_branch(sign, y, f"{name}_point_left")
        right = _pointwise_branch(sign, y, f"{name}_point_right")
        y = tf.keras.layers.Concatenate(name=f"{name}_concat")([left, right])
    return RPReLU(name=f"{name}_point_rprelu")(y)


def reactnet_a(
    input_shape: tuple[int, int, int], classes: int, width: float = 1.0, stem_stride: int = 2
) -> tf.keras.Model:
    """Builds ReActNet-A.

    Args:
        input_shape: (height, width, 3) in pixels.
        classes: number of classes.
        width: multiplier of all channel counts (1.0 is the published network).
        stem_stride: stride of the float stem, 2 as published, 1 for small images.

    Returns:
        Keras model from pixels, float [N, H, W, 3] in 0..255, to a dictionary with "features"
        (float [N, d_S], pooled) and "logits" (float [N, classes]). Scaling to -1..1 is inside.
    """
    pixels = tf.keras.Input(input_shape, name="pixels")
    x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0, name="rescale")(pixels)
    x = tf.keras.layers.Conv2D(
        scaled_channels(STEM_CHANNELS, width),
        3,
        strides=stem_stride,
        padding="same",
        use_bias=False,
        name="stem_conv",
    )(x)
    x = batch_norm(x, "stem_bn")
    doubled = scaled_channels(STEM_CHANNELS, width)
    for number, (channels, stride) in enumerate(BLOCKS, start=1):
        # The actual width is doubled: rounding that of each stage would not fit the concatenation.
        previous = STEM_CHANNELS if number == 1 else BLOCKS[number - 2][0]
        doubled *= channels // previous
        x = _block(x, doubled, stride, f"block{number:02d}")
    features = GlobalMeanPool(name="features")(x)
    logits = tf.keras.layers.Dense(classes, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="reactnet_a")

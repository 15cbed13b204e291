"""TensorFlow's "SAME" padding, with any value."""

import tensorflow as tf


def same_padding(side: int, window: int, stride: int) -> tuple[int, int]:
    """Pixels that TensorFlow's "SAME" adds before and after a side; the odd one comes after."""
    total = max((-(-side // stride) - 1) * stride + window - side, 0)
    return total // 2, total - total // 2


def pad_same(x: tf.Tensor, window: int, stride: int, value: float) -> tf.Tensor:
    """Pads [N, H, W, C] with `value` so that a "VALID" convolution has the size of "SAME"."""
    if window == 1:
        return x
    paddings = [(0, 0), *(same_padding(side, window, stride) for side in x.shape[1:3]), (0, 0)]
    return tf.pad(x, paddings, constant_values=tf.cast(value, x.dtype))

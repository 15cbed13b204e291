"""TensorFlow's "SAME" padding, with any value."""

import tensorflow as tf


def pad_same(x: tf.Tensor, window: int, stride: int, value: float) -> tf.Tensor:
    """Pads [N, H, W, C] so that a "VALID" convolution has the size of "SAME"."""
    paddings = [(0, 0)]
    for side in x.shape[1:3]:
        total = max((-(-side // stride) - 1) * stride + window - side, 0)
        paddings.append((total // 2, total - total // 2))
    return tf.pad(x, [*paddings, (0, 0)], constant_values=tf.cast(value, x.dtype))

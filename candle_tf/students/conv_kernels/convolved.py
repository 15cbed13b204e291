"""What the forms of a convolution share: what they take and give, and their order of pixels."""

from collections.abc import Callable
from typing import NamedTuple

import tensorflow as tf


class Convolved(NamedTuple):
    """A convolution that was computed.

    Attributes:
        y: of the operands' dtype or float32, [N, H', W', C'].
        gradients: maps two gradients of y, of the operands' dtype, to that of the input, which the
            first one gives, and that of the kernel, which the second gives; of the same dtype.
            (They are two because a scale between y and the loss may count for one of them alone.)
    """

    y: tf.Tensor
    gradients: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


# Computes the convolution of x [N, H, W, C] and a kernel [k, k, C, C'] with a value around x.
Form = Callable[[tf.Tensor, tf.Tensor, float], Convolved]


def pixels_first(x: tf.Tensor) -> tf.Tensor:
    """[N, H, W, C] to [H * W, N, C], in which a pixel of all images is one run of rows."""
    _, height, width, channels = x.shape
    return tf.transpose(tf.reshape(x, [-1, height * width, channels]), [1, 0, 2])

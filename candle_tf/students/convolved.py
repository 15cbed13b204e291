"""What each form of a convolution gives: its output, and what its gradients are made of."""

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

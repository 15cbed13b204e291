"""The interface of a convolution's implementations.

An implementation is a module with two functions, `supports` and `conv`, and one line in
`candle_tf.students.conv_kernels.registry`.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

import tensorflow as tf


class ConvResult(NamedTuple):
    """A convolution's output and its gradients.

    Attributes:
        y: of the operands' dtype or float32, [N, H', W', C'].
        gradients: maps two gradients of y, of the operands' dtype, to the gradient of x, computed
            from the first, and the gradient of the kernel, computed from the second; of the same
            dtype. (There are two because a scale between y and the loss may apply to only one.)
    """

    y: tf.Tensor
    gradients: Callable[[tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]]


class ConvImplementation(Protocol):
    """What a module offers that implements the convolution."""

    def supports(self, x: tf.Tensor, kernel: tf.Tensor, stride: int) -> bool:
        """Whether this implementation computes these operands, and is fast for them.

        Args:
            x: [N, H, W, C]; only its dtype and its known H, W and C are read.
            kernel: [k, k, C, C']; only its dtype and shape are read.
            stride: of both sides.
        """

    def conv(self, x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int) -> ConvResult:
        """A "same" convolution.

        Args:
            x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
            kernel: of x's dtype, [k, k, C, C'].
            pad_value: value of the padding around x.
            stride: of both sides.

        Raises:
            ValueError: for a kernel size or stride that the implementation cannot compute.
        """


def output_sides(x: tf.Tensor, stride: int) -> tuple[int, int]:
    """H' and W' of a "same" convolution of x [N, H, W, C]."""
    _, height, width, _ = x.shape
    return -(-height // stride), -(-width // stride)

"""The implementations of the binary convolution, in order: the first that supports operands wins.

conv = find_implementation(x, kernel, stride=1).conv
y, gradients = conv(x, kernel, 1.0, 1)

To add one (a native operator, say): write a module with `supports` and `conv` (see
`candle_tf.students.conv_kernels.implementation`) and add it here, before those that it replaces.
"""

from collections.abc import Mapping

import tensorflow as tf

from candle_tf.students.conv_kernels import direct, kn2row, winograd
from candle_tf.students.conv_kernels.implementation import ConvImplementation

# The last one supports everything.
IMPLEMENTATIONS: Mapping[str, ConvImplementation] = {
    "kn2row": kn2row,
    "winograd": winograd,
    "direct": direct,
}


def find_implementation(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> ConvImplementation:
    """The first implementation that supports a convolution.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [k, k, C, C'].
        stride: of both sides.
    """
    return next(each for each in IMPLEMENTATIONS.values() if each.supports(x, kernel, stride))

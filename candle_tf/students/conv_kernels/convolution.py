"""The convolution of +-1 activations with a +-1 kernel, as it is computed in training on a CPU.

    y = convolve(activations, kernel, pad_value=1.0, stride=1)

The same function and gradients as padding and `tf.nn.conv2d`, by the first implementation in
`candle_tf.students.conv_kernels.registry` that supports the operands.
"""

from typing import Any

import tensorflow as tf

from candle_tf.native.ops import binary_conv, winograd_gradients
from candle_tf.students.conv_kernels import winograd
from candle_tf.students.conv_kernels.registry import find_implementation


def convolve(
    x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int, scale: tf.Tensor | None = None
) -> tf.Tensor:
    """A "same" convolution with few passes over memory; gradients to x and kernel.

    With a scale s per output channel, y = s * conv(x, kernel). A scaled sign passes the gradient of
    its scaled kernel straight through. The kernel's gradient is therefore that at s * kernel: s is
    no factor of it, and gets no gradient itself.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [k, k, C, C'].
        pad_value: value of the padding around x.
        stride: of both sides.
        scale: float32 [C'] or None.

    Returns:
        float32 [N, ceil(H / stride), ceil(W / stride), C'].
    """
    scale = None if scale is None else tf.stop_gradient(scale)
    implementation = find_implementation(x, kernel, stride)

    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        y, gradients = implementation.conv(x, kernel, pad_value, stride)
        y = tf.cast(y, tf.float32)
        y = y if scale is None else y * scale

        def grad(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            for_kernel = tf.cast(dy, kernel.dtype)
            for_x = for_kernel if scale is None else tf.cast(dy * scale, kernel.dtype)
            return gradients(for_x, for_kernel)

        return y, grad

    return run(x, kernel)


def convolve_signs(
    x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int, magnitude: float
) -> tf.Tensor:
    """A "same" convolution of signs by the native operators, and its gradients.

    Args:
        x: -1 and +1, float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, -magnitude and +magnitude, [k, k, C, C'].
        pad_value: -1 or 1.
        stride: of both sides.
        magnitude: above 0.

    Returns:
        Of x's dtype, [N, ceil(H / stride), ceil(W / stride), C'].
    """

    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        y = binary_conv(x, kernel, pad_value=pad_value, stride=stride, magnitude=magnitude)

        def grad(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            implementation = find_implementation(x, kernel, stride)
            if implementation is winograd:
                return winograd_gradients(x, kernel, dy, pad_value)
            return implementation.conv(x, kernel, pad_value, stride).gradients(dy, dy)

        return y, grad

    return run(x, kernel)

"""Convolutions in training by the native operators, with gradients.

y = convolve_signs(signs, values, pad_value=1.0, stride=1, magnitude=0.5)
y = convolve(x, kernel, pad_value=1.0, stride=1)        # a kernel that is no signs yet
"""

from collections.abc import Callable
from typing import Any

import tensorflow as tf

from candle_tf.native.ops import (
    binary_conv,
    conv,
    conv_gradients,
    has_bfloat16_products,
    has_fast_lookups,
    sign_conv_gradients,
    winograd_gradients,
)

# Least channels, in and out, with which Winograd's algorithm pays; and lookup tables, by the
# kernel's side.
WINOGRAD_CHANNELS = 64
LOOKUP_CHANNELS = {3: 64, 1: 128}


def convolve_signs(
    x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int, magnitude: float
) -> tf.Tensor:
    """A "same" convolution of signs, and its gradients.

    In bfloat16 the gradients are computed by lookup tables where these pay: see
    `sign_conv_gradients` for what they round.

    Args:
        x: -1 and +1, float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, -magnitude and +magnitude, [k, k, C, C'].
        pad_value: -1, 0 or 1.
        stride: of both sides.
        magnitude: above 0.

    Returns:
        Of x's dtype, [N, ceil(H / stride), ceil(W / stride), C'].
    """

    def forward(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return binary_conv(x, kernel, pad_value=pad_value, stride=stride, magnitude=magnitude)

    def backward(x: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        if x.dtype == tf.bfloat16 and _lookups_pay(kernel.shape) and has_fast_lookups():
            return sign_conv_gradients(
                x, kernel, dy, pad_value=pad_value, stride=stride, magnitude=magnitude
            )
        return gradients_of(x, kernel, dy, pad_value, stride)

    return _with_gradients(forward, backward, x, kernel)


def convolve(x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int) -> tf.Tensor:
    """A "same" convolution of real values, and its gradients.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [k, k, C, C'].
        pad_value: of the padding around x.
        stride: of both sides.

    Returns:
        Of x's dtype, [N, ceil(H / stride), ceil(W / stride), C'].
    """
    return _with_gradients(
        lambda x, kernel: conv(x, kernel, pad_value=pad_value, stride=stride),
        lambda x, kernel, dy: gradients_of(x, kernel, dy, pad_value, stride),
        x,
        kernel,
    )


def _lookups_pay(shape: tf.TensorShape) -> bool:
    window, _, channels, filters = shape
    return window in LOOKUP_CHANNELS and min(channels, filters) >= LOOKUP_CHANNELS[window]


def _with_gradients(
    forward: Callable[[tf.Tensor, tf.Tensor], tf.Tensor],
    backward: Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[tf.Tensor, tf.Tensor]],
    x: tf.Tensor,
    kernel: tf.Tensor,
) -> tf.Tensor:
    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return forward(x, kernel), lambda dy: backward(x, kernel, dy)

    return run(x, kernel)


def gradients_of(
    x: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor, pad_value: float, stride: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Gradients of a "same" convolution, by whatever is fast for its shape.

    Products of many channels are TensorFlow's, whose library uses all of a CPU's instructions for
    matrices; bfloat16 is widened for it where the CPU has no instructions for it.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [k, k, C, C'].
        dy: of x's dtype, [N, ceil(H / stride), ceil(W / stride), C'].
        pad_value: of the padding around x.
        stride: of both sides.

    Returns:
        The gradients of x and of the kernel, of x's dtype.
    """
    window, _, channels, filters = kernel.shape
    if x.dtype == tf.bfloat16 and stride == 1 and not has_bfloat16_products():
        wide_x, wide_kernel, wide_dy = (tf.cast(each, tf.float32) for each in (x, kernel, dy))
        to_x, to_kernel = gradients_of(wide_x, wide_kernel, wide_dy, pad_value, stride)
        return tf.cast(to_x, x.dtype), tf.cast(to_kernel, x.dtype)
    if window == 1 and stride == 1:
        rows, matrix = tf.reshape(dy, [-1, filters]), tf.reshape(kernel, [channels, filters])
        to_x = tf.matmul(rows, matrix, transpose_b=True)
        to_kernel = tf.matmul(tf.reshape(x, [-1, channels]), rows, transpose_a=True)
        return tf.reshape(to_x, tf.shape(x)), tf.reshape(to_kernel, kernel.shape)
    if stride > 1:
        return conv_gradients(x, kernel, dy, pad_value=pad_value, stride=stride)
    if window == 3 and min(channels, filters) >= WINOGRAD_CHANNELS:
        return winograd_gradients(x, kernel, dy, pad_value)
    return _gradients_by_tensorflow(x, kernel, dy, pad_value)


def _gradients_by_tensorflow(
    x: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor, pad_value: float
) -> tuple[tf.Tensor, tf.Tensor]:
    """Those of a stride of 1 with few channels, where oneDNN was measured to be faster."""
    window = kernel.shape[0]
    before, after = (window - 1) // 2, window // 2
    padded = tf.pad(
        x,
        [(0, 0), (before, after), (before, after), (0, 0)],
        constant_values=tf.cast(pad_value, x.dtype),
    )
    # The gradient at the padding is dropped: it is that of a convolution padded with 0.
    to_x = tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x),
        filter=kernel,
        out_backprop=dy,
        strides=[1, 1, 1, 1],
        padding="SAME",
    )
    to_kernel = tf.raw_ops.Conv2DBackpropFilter(
        input=padded,
        filter_sizes=kernel.shape,
        out_backprop=dy,
        strides=[1, 1, 1, 1],
        padding="VALID",
    )
    return to_x, to_kernel

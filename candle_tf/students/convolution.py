"""The convolution of +-1 activations with a +-1 kernel, as it is computed in training on a CPU.

y = convolve(activations, kernel, strides=1, pad_value=1.0)

The same function as pad, `tf.nn.conv2d` and their gradients, in whichever form is fastest: where
there are many channels by Winograd's algorithm; else, where a map is small, as a matrix product of
windows laid out as rows (TensorFlow's convolution on a CPU is several times slower than a product
of the same size there, most of all in the gradient of the kernel).
"""

from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.students.winograd import Gradients, convolve_3x3

# Channels, in and out, from which Winograd's form was measured to be faster, forward and backward
# together: at 128 it takes .78 to 1 of the time on maps of 4x4 to 16x16, at 512 .6; at 64 up to
# 1.25.
WINOGRAD_CHANNELS = 128

# Sides of the output map up to which a product of laid-out windows was measured to be faster: for
# the output 2 (7 ms against 13), for the kernel's gradient 8 (at 8: 8 against 12, at 4: 7 against
# 21, at 2: 7 against 84; at 16 it is slower).
ROWS_UP_TO = 2
KERNEL_GRADIENT_ROWS_UP_TO = 8


def same_padding(side: int, window: int, stride: int) -> tuple[int, int]:
    """Pixels that TensorFlow's "SAME" adds before and after a side; the odd one comes after."""
    total = max((-(-side // stride) - 1) * stride + window - side, 0)
    return total // 2, total - total // 2


def pad_same(x: tf.Tensor, window: int, stride: int, value: float) -> tf.Tensor:
    """Pads [N, H, W, C] with `value` to where a "VALID" convolution has the size of "SAME"."""
    if window == 1:
        return x
    paddings = [(0, 0), *(same_padding(side, window, stride) for side in x.shape[1:3]), (0, 0)]
    return tf.pad(x, paddings, constant_values=tf.cast(value, x.dtype))


def window_rows(padded: tf.Tensor, window: int, stride: int) -> tf.Tensor:
    """Lays the windows of a padded map out: [N, H, W, C] to [N * H' * W', window^2 * C]."""
    _, height, width, channels = padded.shape
    if window == 1 and stride == 1:
        return tf.reshape(padded, [-1, channels])
    # A gather copies whole runs of channels; slices and a concatenation move everything twice.
    pixels = _window_pixels(height, width, window, stride)
    rows = tf.gather(tf.reshape(padded, [-1, height * width, channels]), pixels.ravel(), axis=1)
    return tf.reshape(rows, [-1, window * window * channels])


def _window_pixels(height: int, width: int, window: int, stride: int) -> np.ndarray:
    """Index of the pixel under each tap of each window, int32 [H' * W', window^2]."""
    tops = np.arange(0, height - window + 1, stride)
    lefts = np.arange(0, width - window + 1, stride)
    inner = np.arange(window)
    rows = tops[:, None, None, None] + inner[None, None, :, None]
    columns = lefts[None, :, None, None] + inner[None, None, None, :]
    pixels = rows * width + columns
    return pixels.reshape(len(tops) * len(lefts), window * window).astype(np.int32)


def convolve(
    x: tf.Tensor, kernel: tf.Tensor, strides: int, pad_value: float, scale: tf.Tensor | None = None
) -> tf.Tensor:
    """A "same" convolution with few passes over memory; gradients to x and kernel.

    With a scale s per output channel, y = s * conv(x, kernel). As a scaled sign passes the gradient
    of its scaled kernel straight through, the kernel's gradient is that at s * kernel: s is not in
    it, and gets none itself.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [k, k, C, C'].
        strides: of both sides.
        pad_value: what lies around x.
        scale: float32 [C'] or None.

    Returns:
        float32 [N, ceil(H / strides), ceil(W / strides), C'].
    """
    scale = None if scale is None else tf.stop_gradient(scale)
    form = _winograd if _is_for_winograd(kernel, strides) else _direct

    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        y, gradients = form(x, kernel, strides, pad_value)
        y = tf.cast(y, tf.float32)
        y = y if scale is None else y * scale

        def grad(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            for_kernel = tf.cast(dy, kernel.dtype)
            for_x = for_kernel if scale is None else tf.cast(dy * scale, kernel.dtype)
            return gradients(for_x, for_kernel)

        return y, grad

    return run(x, kernel)


def _is_for_winograd(kernel: tf.Tensor, strides: int) -> bool:
    window, _, channels, filters = kernel.shape
    return window == 3 and strides == 1 and min(channels, filters) >= WINOGRAD_CHANNELS


def _winograd(
    x: tf.Tensor, kernel: tf.Tensor, strides: int, pad_value: float
) -> tuple[tf.Tensor, Gradients]:
    del strides
    return convolve_3x3(x, kernel, pad_value)


def _direct(
    x: tf.Tensor, kernel: tf.Tensor, strides: int, pad_value: float
) -> tuple[tf.Tensor, Gradients]:
    padded = pad_same(x, kernel.shape[0], strides, pad_value)

    def gradients(for_x: tf.Tensor, for_kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (
            _inputs_gradient(for_x, kernel, x, strides),
            _kernel_gradient(for_kernel, padded, kernel, strides),
        )

    return _forward(padded, kernel, strides), gradients


def _forward(padded: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    window, _, _, filters = kernel.shape
    height, width = ((side - window) // stride + 1 for side in padded.shape[1:3])
    if window > 1 and max(height, width) > ROWS_UP_TO:
        return tf.nn.conv2d(padded, kernel, stride, "VALID")
    rows = window_rows(padded, window, stride)
    return tf.reshape(rows @ tf.reshape(kernel, [-1, filters]), [-1, height, width, filters])


def _inputs_gradient(dy: tf.Tensor, kernel: tf.Tensor, x: tf.Tensor, stride: int) -> tf.Tensor:
    window, _, channels, filters = kernel.shape
    if window == 1 and stride == 1:
        matrix = tf.reshape(kernel, [channels, filters])
        rows = tf.matmul(tf.reshape(dy, [-1, filters]), matrix, transpose_b=True)
        return tf.reshape(rows, tf.shape(x))
    # What flows to the padding is dropped, so this is the gradient of a zero-padded convolution.
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x),
        filter=kernel,
        out_backprop=dy,
        strides=[1, stride, stride, 1],
        padding="SAME",
    )


def _kernel_gradient(dy: tf.Tensor, padded: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    window, _, _, filters = kernel.shape
    by_rows = stride == 1 if window == 1 else max(dy.shape[1:3]) <= KERNEL_GRADIENT_ROWS_UP_TO
    if by_rows:
        rows = window_rows(padded, window, stride)
        gradient = tf.matmul(rows, tf.reshape(dy, [-1, filters]), transpose_a=True)
        return tf.reshape(gradient, kernel.shape)
    return tf.raw_ops.Conv2DBackpropFilter(
        input=padded,
        filter_sizes=kernel.shape,
        out_backprop=dy,
        strides=[1, stride, stride, 1],
        padding="VALID",
    )

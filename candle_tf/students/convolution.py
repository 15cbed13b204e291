"""The convolution of +-1 activations with a +-1 kernel, as it is computed in training on a CPU.

y = convolve(activations, kernel, strides=1, pad_value=1.0)

The same function as pad, `tf.nn.conv2d` and their gradients. But where a map is small, TensorFlow's
convolution on a CPU is several times slower than a matrix product of the same size, most of all the
gradient of the kernel: there the windows are laid out as rows and multiplied.
"""

from typing import Any

import numpy as np
import tensorflow as tf

# Sides of the output map up to which a product of laid-out windows was measured to be faster: for
# output and inputs' gradient 2 (7 ms against 13 and 16), for the kernel's gradient 8 (at 8: 8
# against 12, at 4: 7 against 21, at 2: 7 against 84; at 16 it is slower).
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

    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        window = kernel.shape[0]
        padded = pad_same(x, window, strides, pad_value)
        y = tf.cast(_forward(padded, kernel, strides), tf.float32)
        y = y if scale is None else y * scale

        def grad(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            to_kernel = tf.cast(dy, kernel.dtype)
            to_inputs = to_kernel if scale is None else tf.cast(dy * scale, kernel.dtype)
            return (
                _inputs_gradient(to_inputs, kernel, x, strides),
                _kernel_gradient(to_kernel, padded, kernel, strides),
            )

        return y, grad

    return run(x, kernel)


def _forward(padded: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    window, _, _, filters = kernel.shape
    height, width = ((side - window) // stride + 1 for side in padded.shape[1:3])
    if window > 1 and max(height, width) > ROWS_UP_TO:
        return tf.nn.conv2d(padded, kernel, stride, "VALID")
    rows = window_rows(padded, window, stride)
    return tf.reshape(rows @ tf.reshape(kernel, [-1, filters]), [-1, height, width, filters])


def _inputs_gradient(dy: tf.Tensor, kernel: tf.Tensor, x: tf.Tensor, stride: int) -> tf.Tensor:
    window = kernel.shape[0]
    if window == 1 and stride == 1:
        return tf.reshape(_window_gradients(dy, kernel), tf.shape(x))
    if stride == 1 and max(x.shape[1:3]) <= ROWS_UP_TO:
        return _inputs_gradient_by_rows(dy, kernel, x)
    # What flows to the padding is dropped, so this is the gradient of a zero-padded convolution.
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x),
        filter=kernel,
        out_backprop=dy,
        strides=[1, stride, stride, 1],
        padding="SAME",
    )


def _inputs_gradient_by_rows(dy: tf.Tensor, kernel: tf.Tensor, x: tf.Tensor) -> tf.Tensor:
    """Each window's gradient as a row, then the sum of the taps over each pixel; stride 1."""
    window, _, channels, _ = kernel.shape
    _, height, width, _ = x.shape
    taps = tf.reshape(
        _window_gradients(dy, kernel), [-1, height * width * window * window, channels]
    )
    over = [_taps_over(pixel, height, width, window) for pixel in range(height * width)]
    sums = [
        tf.reduce_sum(tf.cast(tf.gather(taps, each, axis=1), tf.float32), axis=1) for each in over
    ]
    return tf.cast(tf.reshape(tf.stack(sums, axis=1), tf.shape(x)), x.dtype)


def _window_gradients(dy: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
    """What flows to each laid-out window: [N, H, W, C'] to [N * H * W, window^2 * C]."""
    filters = kernel.shape[-1]
    return tf.matmul(
        tf.reshape(dy, [-1, filters]), tf.reshape(kernel, [-1, filters]), transpose_b=True
    )


def _taps_over(pixel: int, height: int, width: int, window: int) -> np.ndarray:
    """Indices (window * taps + tap) of the taps that lie over a pixel, int32."""
    before = same_padding(height, window, 1)[0], same_padding(width, window, 1)[0]
    padded = height + window - 1, width + window - 1
    under = _window_pixels(*padded, window, 1)
    row, column = divmod(pixel, width)
    place = (row + before[0]) * padded[1] + column + before[1]
    return np.flatnonzero(under.ravel() == place).astype(np.int32)


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

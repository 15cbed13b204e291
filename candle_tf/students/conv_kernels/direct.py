"""A convolution by TensorFlow's operators, and by products of im2col where it is small.

    y, gradients = convolve_directly(x, kernel, pad_value=1.0, stride=2)

TensorFlow's gradient of a kernel is several times slower on a CPU than a matrix product of the same
size where the map is small: there the windows are laid out as rows.
"""

import numpy as np
import tensorflow as tf

from candle_tf.students.conv_kernels.convolved import Convolved
from candle_tf.students.conv_kernels.padding import pad_same

# Side of the output map up to which the kernel's gradient was measured to be faster as a product of
# im2col: at 8 it took 8 ms against 12, at 4 7 against 21; at 16 it is slower.
ROWS_UP_TO = 8


def convolve_directly(x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int) -> Convolved:
    """A "same" convolution.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [k, k, C, C'].
        pad_value: what lies around x.
        stride: of both sides.
    """
    padded = pad_same(x, kernel.shape[0], stride, pad_value)

    def gradients(for_x: tf.Tensor, for_kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (
            _inputs_gradient(for_x, kernel, x, stride),
            _kernel_gradient(for_kernel, padded, kernel, stride),
        )

    return Convolved(_forward(padded, kernel, stride), gradients)


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


def _forward(padded: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    window, _, channels, filters = kernel.shape
    if window > 1 or stride > 1:
        return tf.nn.conv2d(padded, kernel, stride, "VALID")
    rows = tf.reshape(padded, [-1, channels]) @ tf.reshape(kernel, [channels, filters])
    return tf.reshape(rows, [-1, *padded.shape[1:3], filters])


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
    by_rows = stride == 1 if window == 1 else max(dy.shape[1:3]) <= ROWS_UP_TO
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

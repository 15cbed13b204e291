"""A convolution by TensorFlow's operators; on small maps the kernel's gradient is by im2col.

    y, gradients = conv(x, kernel, pad_value=1.0, stride=2)

On a CPU TensorFlow's gradient of a kernel is several times slower than a matrix product of the same
size where the map is small: there it is computed as a product of im2col.
"""

import tensorflow as tf

from candle_tf.students.conv_kernels.implementation import ConvResult
from candle_tf.students.conv_kernels.layouts import im2col
from candle_tf.students.conv_kernels.padding import pad_same

# Side of the output map up to which the kernel's gradient was measured to be faster as a product of
# im2col: at 8 it took 8 ms against 12, at 4 7 against 21; at 16 it is slower.
IM2COL_MAX_SIDE = 8


def supports(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> bool:
    """Every convolution."""
    del x, kernel, stride
    return True


def conv(x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int) -> ConvResult:
    """A "same" convolution.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [k, k, C, C'].
        pad_value: value of the padding around x.
        stride: of both sides.
    """
    padded = pad_same(x, kernel.shape[0], stride, pad_value)

    def gradients(for_x: tf.Tensor, for_kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return (
            _input_gradient(for_x, kernel, x, stride),
            _kernel_gradient(for_kernel, padded, kernel, stride),
        )

    return ConvResult(_forward(padded, kernel, stride), gradients)


def _forward(padded: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    window, _, channels, filters = kernel.shape
    if window > 1 or stride > 1:
        return tf.nn.conv2d(padded, kernel, stride, "VALID")
    rows = tf.reshape(padded, [-1, channels]) @ tf.reshape(kernel, [channels, filters])
    return tf.reshape(rows, [-1, *padded.shape[1:3], filters])


def _input_gradient(dy: tf.Tensor, kernel: tf.Tensor, x: tf.Tensor, stride: int) -> tf.Tensor:
    window, _, channels, filters = kernel.shape
    if window == 1 and stride == 1:
        matrix = tf.reshape(kernel, [channels, filters])
        rows = tf.matmul(tf.reshape(dy, [-1, filters]), matrix, transpose_b=True)
        return tf.reshape(rows, tf.shape(x))
    # The gradient at the padding is dropped, so this is the gradient of a zero-padded convolution.
    return tf.raw_ops.Conv2DBackpropInput(
        input_sizes=tf.shape(x),
        filter=kernel,
        out_backprop=dy,
        strides=[1, stride, stride, 1],
        padding="SAME",
    )


def _kernel_gradient(dy: tf.Tensor, padded: tf.Tensor, kernel: tf.Tensor, stride: int) -> tf.Tensor:
    window, _, _, filters = kernel.shape
    by_im2col = stride == 1 if window == 1 else max(dy.shape[1:3]) <= IM2COL_MAX_SIDE
    if by_im2col:
        rows = im2col(padded, window, stride)
        gradient = tf.matmul(rows, tf.reshape(dy, [-1, filters]), transpose_a=True)
        return tf.reshape(gradient, kernel.shape)
    return tf.raw_ops.Conv2DBackpropFilter(
        input=padded,
        filter_sizes=kernel.shape,
        out_backprop=dy,
        strides=[1, stride, stride, 1],
        padding="VALID",
    )

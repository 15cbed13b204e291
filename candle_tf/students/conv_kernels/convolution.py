"""The convolution of +-1 activations with a +-1 kernel, as it is computed in training on a CPU.

    y = convolve(activations, kernel, strides=1, pad_value=1.0)

The same function as pad, `tf.nn.conv2d` and their gradients, in the form that is fastest: where
there are many channels by single taps on tiny maps (`taps`) and by Winograd's algorithm on others
(`winograd`), else directly (`direct`).
"""

from functools import partial
from typing import Any

import tensorflow as tf

from candle_tf.students.conv_kernels.convolved import Form
from candle_tf.students.conv_kernels.direct import convolve_directly
from candle_tf.students.conv_kernels.kn2row import convolve_by_kn2row
from candle_tf.students.conv_kernels.winograd import convolve_3x3

# Channels, in and out, from which a form was measured to be faster than the direct one, output and
# gradients together (`python -m tools.bench --rows=forms`): Winograd's takes .87 to .96 of the
# time at 128, and more of it at 64; taps on 2x2 pixels .5 to .9 at 512 and a third at 1,024.
WINOGRAD_CHANNELS = 128
TAPS_CHANNELS = 256
# Side of the output map up to which taps are faster than Winograd's form.
TAPS_UP_TO = 2


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
    form = _form(x, kernel, strides)

    @tf.custom_gradient
    def run(x: tf.Tensor, kernel: tf.Tensor) -> tuple[tf.Tensor, Any]:
        y, gradients = form(x, kernel, pad_value)
        y = tf.cast(y, tf.float32)
        y = y if scale is None else y * scale

        def grad(dy: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            for_kernel = tf.cast(dy, kernel.dtype)
            for_x = for_kernel if scale is None else tf.cast(dy * scale, kernel.dtype)
            return gradients(for_x, for_kernel)

        return y, grad

    return run(x, kernel)


def _form(x: tf.Tensor, kernel: tf.Tensor, strides: int) -> Form:
    window = kernel.shape[0]
    channels = min(kernel.shape[2:])
    output = max(-(-side // strides) for side in x.shape[1:3])
    if window > 1 and window >= strides and output <= TAPS_UP_TO and channels >= TAPS_CHANNELS:
        return partial(convolve_by_kn2row, stride=strides)
    if window == 3 and strides == 1 and channels >= WINOGRAD_CHANNELS:
        return convolve_3x3
    return partial(convolve_directly, stride=strides)

"""Quantizers to {-1, +1}: forward rule, gradient rule and source of each.

With all of them a convolution stays binary in the Larq Compute Engine: activations are quantized by
a plain sign, kernels by a sign with at most one positive scale per output channel.

    layer = larq.layers.QuantConv2D(64, 3, kernel_quantizer=ScaledSign())
    activations = ApproxSign()(x)
"""

from typing import Any

import larq as lq
import tensorflow as tf

# The converter keeps a kernel binary only where each channel's scale is above 1.2e-7.
MIN_SCALE = 1e-6


@tf.custom_gradient
def approx_sign(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
    """Sign of activations with a piecewise quadratic straight-through gradient.

    Forward: +1 where x >= 0 (so sign(0) = +1), else -1. Backward: dy * (2 - 2|x|) inside
    |x| < 1, zero outside. Source: Bi-Real Net (Liu et al., ECCV 2018); also in ReActNet.

    Args:
        x: float tensor of any shape.

    Returns:
        Tensor of x's shape and dtype with values in {-1, +1}.
    """

    def grad(dy: tf.Tensor) -> tf.Tensor:
        return dy * tf.maximum(2.0 - 2.0 * tf.abs(x), 0.0)

    return lq.math.sign(x), grad


def scaled_sign(kernel: tf.Tensor) -> tf.Tensor:
    """Sign of a kernel times the mean magnitude of each output channel.

    Forward: alpha * sign(w), alpha = max(mean |w|, MIN_SCALE) over all but the last axis. Without
    the minimum, one channel whose latent weights are all near 0 would make the converter compute
    the whole layer in float. Backward: straight-through inside |w| <= 1, zero outside; no gradient
    through alpha. Idempotent up to rounding, so an exported kernel needs no latent weights. Source:
    XNOR-Net (Rastegari et al., ECCV 2016) as in ReActNet (Liu et al., ECCV 2020).

    Args:
        kernel: latent weights, float [..., out_channels].

    Returns:
        Tensor of the kernel's shape with two values, -alpha and +alpha, per output channel.
    """
    axes = list(range(len(kernel.shape) - 1))
    alpha = tf.stop_gradient(tf.maximum(tf.reduce_mean(tf.abs(kernel), axis=axes), MIN_SCALE))

    @tf.custom_gradient
    def quantize(w: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tf.Tensor:
            return tf.where(tf.abs(w) <= 1.0, dy, tf.zeros_like(dy))

        return alpha * lq.math.sign(w), grad

    return quantize(kernel)


@tf.keras.utils.register_keras_serializable("candle_tf")
class ApproxSign(tf.keras.layers.Layer):
    """`approx_sign` as a layer."""

    precision = 1

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return approx_sign(inputs)


class OneBitKernel:
    """Mixin of kernel quantizers whose values are a sign and at most a scale per channel."""

    #: The straight-through gradient passes where |w| is at most this.
    region: float = 1.0
    #: Least scale of a channel; None for a sign without a scale.
    min_scale: float | None = None


@tf.keras.utils.register_keras_serializable("candle_tf")
class ScaledSign(OneBitKernel, tf.keras.layers.Layer):
    """`scaled_sign` as a layer, to be given as `kernel_quantizer`."""

    precision = 1
    min_scale = MIN_SCALE

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return scaled_sign(inputs)


def ste_sign(x: tf.Tensor, clip_value: float = 1.0) -> tf.Tensor:
    """Sign of activations or of a kernel, without a scale, with a straight-through gradient.

    Forward: +1 where x >= 0 (so sign(0) = +1), else -1. Backward: dy inside |x| <= clip_value,
    zero outside. Source: "Binarized Neural Networks" (Hubara et al., NeurIPS 2016).

    Args:
        x: float tensor of any shape.
        clip_value: largest |x| whose gradient passes, above 0.

    Returns:
        Tensor of x's shape and dtype with values in {-1, +1}.
    """

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tf.Tensor:
            return tf.where(tf.abs(x) <= clip_value, dy, tf.zeros_like(dy))

        return lq.math.sign(x), grad

    return quantize(x)


@tf.keras.utils.register_keras_serializable("candle_tf")
class SteSign(OneBitKernel, tf.keras.layers.Layer):
    """`ste_sign` as a layer: of activations, or given as `kernel_quantizer`."""

    precision = 1

    def __init__(self, clip_value: float = 1.0, **options: Any) -> None:
        super().__init__(**options)
        self.clip_value = self.region = clip_value

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return ste_sign(inputs, self.clip_value)

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "clip_value": self.clip_value}

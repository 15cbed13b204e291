"""Quantizers to {-1, +1}: forward rule, gradient rule and source of each.

With all of them a convolution stays binary in the Larq Compute Engine: activations are quantized by
a plain sign, kernels by a sign with at most one positive scale per output channel.

    layer = larq.layers.QuantConv2D(64, 3, kernel_quantizer=ScaledSign())
    activations = ApproxSign()(x)
"""

from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.students.compute_policy import ComputePolicyLayer

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


def signs(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Sign of x, +1 at 0, in another dtype; without a gradient.

    By a comparison, a cast and arithmetic: `tf.where` with constants takes four times as long.
    """
    return 2 * half_signs(x, dtype)


def half_signs(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """Half of the sign of x, +1/2 at 0: `signs` with one pass fewer over memory."""
    return tf.cast(x >= 0, dtype) - 0.5


@tf.keras.utils.register_keras_serializable("candle_tf")
class ApproxSign(ComputePolicyLayer, tf.keras.layers.Layer):
    """`approx_sign` as a layer.

    Where the compute policy is fused, training gives the policy's dtype: a convolution's operands.
    """

    precision = 1

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if not self.uses_fused(training):
            return approx_sign(inputs)
        return _approx_sign_in(inputs, tf.as_dtype(self.compute_policy.dtype))


def _approx_sign_in(x: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
    """`approx_sign` of float32 with values in `dtype` and a gradient in float32."""

    @tf.custom_gradient
    def quantize(x: tf.Tensor) -> tuple[tf.Tensor, Any]:
        def grad(dy: tf.Tensor) -> tf.Tensor:
            return tf.cast(dy, x.dtype) * tf.nn.relu(2.0 - 2.0 * tf.abs(x))

        return signs(x, dtype), grad

    return quantize(x)


class OneBitKernel:
    """Mixin of kernel quantizers whose values are a sign and at most a scale per channel."""

    #: The straight-through gradient passes where |w| is at most this.
    region: float = 1.0
    #: Least scale of a channel; None for a sign without a scale.
    min_scale: float | None = None

    def values_and_scale(
        self, kernel: tf.Tensor, dtype: tf.DType, bound: float
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The quantized kernel as values and a scale, the operands of a convolution in training.

        Args:
            kernel: latent weights, float32 [..., out_channels].
            dtype: of the values.
            bound: magnitude that the weights are clipped to after each update; where it is inside
                the straight-through region, the gradient needs no mask.

        Returns:
            values: `dtype`, of the kernel's shape: -1 and +1, or with a scale -1/2 and +1/2. Their
                gradient is treated as that of the quantized kernel, straight through.
            scale: float32 [out_channels] without a gradient, factor of the values, or None.
        """
        scale = self._scale(kernel)

        @tf.custom_gradient
        def quantize(w: tf.Tensor) -> tuple[tf.Tensor, Any]:
            def grad(dy: tf.Tensor) -> tf.Tensor:
                dy = tf.cast(dy, w.dtype)
                if bound <= self.region:
                    return dy
                return dy * tf.cast(tf.abs(w) <= self.region, w.dtype)

            return (signs if scale is None else half_signs)(w, dtype), grad

        return quantize(kernel), None if scale is None else 2 * scale

    def _scale(self, kernel: tf.Tensor) -> tf.Tensor | None:
        """The scale of each output channel; None for 1."""
        raise NotImplementedError


@tf.keras.utils.register_keras_serializable("candle_tf")
class ScaledSign(OneBitKernel, tf.keras.layers.Layer):
    """`scaled_sign` as a layer, to be given as `kernel_quantizer`."""

    precision = 1
    min_scale = MIN_SCALE

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return scaled_sign(inputs)

    def _scale(self, kernel: tf.Tensor) -> tf.Tensor:
        rows = tf.abs(tf.reshape(kernel, [-1, kernel.shape[-1]]))
        # A product with ones sums columns in a quarter of the time of `tf.reduce_mean`.
        mean = tf.matmul(tf.fill([1, rows.shape[0]], 1.0 / rows.shape[0]), rows)[0]
        return tf.stop_gradient(tf.maximum(mean, MIN_SCALE))


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

    def _scale(self, kernel: tf.Tensor) -> None:
        del kernel

    def get_config(self) -> dict[str, Any]:
        return {**super().get_config(), "clip_value": self.clip_value}

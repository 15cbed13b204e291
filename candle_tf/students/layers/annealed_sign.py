"""BNext's kernel quantizer: a ramp that is annealed, step by step, to the sign.

quantizer = BNextKernelSign()           # kernel_quantizer=quantizer
quantizer.anneal(0.9)                   # after each epoch
quantizer.set_exact_sign()              # before evaluation and export
find_inexact_layers(model)              # names of the convolutions that are not exact signs yet
"""

from typing import Any

import larq as lq
import tensorflow as tf

# Below this temperature the kernel is its sign, as published.
EXACT_SIGN_BELOW = 1e-7


@tf.keras.utils.register_keras_serializable("candle_tf")
class BNextKernelSign(tf.keras.layers.Layer):
    """Binary kernels by annealing, to be given as `kernel_quantizer`.

    Forward: clip(w / t, -1, 1) with the temperature t, and once t is below `EXACT_SIGN_BELOW`
    exactly sign(w), +1 at w = 0; no scale per channel. Backward: straight through, dy for every
    weight. BNext clips its latent weights to [-1.5, 1.5] by a constraint, so that the gradient
    needs no clipping region. Float kernel of any shape to the same shape and dtype.

    Source: BNext (Guo et al., arXiv 2211.12933); there t starts at 1 and is multiplied by 0.9 after
    each epoch.

    Attributes:
        temperature: t, a float32 scalar variable that is saved with the model and not trained.
    """

    precision = 1

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # float32 in mixed precision too: float16 cannot get below `EXACT_SIGN_BELOW`.
        self.temperature = self.add_weight(
            name="temperature",
            shape=(),
            dtype="float32",
            initializer="ones",
            trainable=False,
            experimental_autocast=False,
        )

    @property
    def is_exact_sign(self) -> bool:
        """Whether the kernels are exact signs."""
        return bool(self.temperature.numpy() < EXACT_SIGN_BELOW)

    def anneal(self, factor: float) -> None:
        """Multiplies the temperature by `factor`, in (0, 1)."""
        self.temperature.assign(self.temperature * factor)

    def set_exact_sign(self) -> None:
        """Makes the kernels exact signs from now on."""
        self.temperature.assign(0.0)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return _annealed_sign(inputs, tf.convert_to_tensor(self.temperature))


@tf.custom_gradient
def _annealed_sign(kernel: tf.Tensor, temperature: tf.Tensor) -> tuple[tf.Tensor, Any]:
    weights = tf.cast(kernel, tf.float32)
    ramp = tf.clip_by_value(weights / tf.maximum(temperature, EXACT_SIGN_BELOW), -1.0, 1.0)
    quantized = tf.where(temperature < EXACT_SIGN_BELOW, lq.math.sign(weights), ramp)
    return tf.cast(quantized, kernel.dtype), lambda dy: (dy, None)


def find_inexact_layers(model: tf.keras.Model) -> list[str]:
    """Names of the layers whose kernels are not exact signs yet; such a model is not binary."""
    return [
        layer.name
        for layer in model.layers
        if not getattr(getattr(layer, "kernel_quantizer", None), "is_exact_sign", True)
    ]

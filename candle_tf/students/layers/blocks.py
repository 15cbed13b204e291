"""Building blocks of binary networks around the binary convolution: RSign's shift and RPReLU.

x = Shift()(x)              # RSign = Shift followed by ApproxSign
x = ApproxSign()(x)
x = binary_conv(x, filters=64, kernel_size=3, strides=1, name="conv")
x = RPReLU()(x)
"""

from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.quantizers import ScaledSign


@tf.keras.utils.register_keras_serializable("candle_tf")
class Shift(tf.keras.layers.Layer):
    """Adds one learned offset per channel: y = x + b, b initialized to 0.

    Float [..., C] to float [..., C]. Followed by a sign this is ReActNet's RSign.
    """

    def build(self, input_shape: tf.TensorShape) -> None:
        self.offset = self.add_weight(name="offset", shape=input_shape[-1:], initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs + self.offset


@tf.keras.utils.register_keras_serializable("candle_tf")
class RPReLU(tf.keras.layers.Layer):
    """Shifted PReLU: y = PReLU(x + b1; slope) + b2, all three learned per channel.

    Float [N, H, W, C] to the same shape. Slopes are initialized to 0.25, shifts to 0. Source:
    ReActNet (Liu et al., ECCV 2020), eq. 5.
    """

    def build(self, input_shape: tf.TensorShape) -> None:
        shape = input_shape[-1:]
        self.shift_in = self.add_weight(name="shift_in", shape=shape, initializer="zeros")
        # [1, 1, C]: with any other rank the TFLite converter finds no PRELU in `call`.
        self.slope = self.add_weight(
            name="slope", shape=(1, 1, *shape), initializer=tf.keras.initializers.Constant(0.25)
        )
        self.shift_out = self.add_weight(name="shift_out", shape=shape, initializer="zeros")
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        x = inputs + self.shift_in
        # The one expression that the TFLite converter makes a single PRELU of.
        prelu = tf.nn.relu(x) + (-self.slope) * tf.nn.relu(-x)
        return prelu + self.shift_out


def scaled_channels(channels: int, width: float) -> int:
    """`channels` times `width`, rounded to a multiple of 8, at least 8."""
    return max(8, 8 * round(channels * width / 8))


def binary_conv(
    x: tf.Tensor,
    filters: int,
    kernel_size: int,
    strides: int,
    name: str,
    *,
    kernel_quantizer: Any = None,
    clip: float = 1.0,
    kernel_initializer: Any = "glorot_uniform",
) -> tf.Tensor:
    """A convolution of +-1 activations with a +-1 kernel, scaled unless another quantizer is given.

    Padding is "same" with +1, so that activations stay bit-packed on the device (padding with 0
    costs a further quantization there). Latent weights are clipped to [-clip, clip], where their
    straight-through gradient is not 0.

    Args:
        x: activations in {-1, +1}, float [N, H, W, C].
        filters: output channels.
        kernel_size: side of the square kernel.
        strides: 1 or 2.
        name: the layer's name; exported files are checked against it.
        kernel_quantizer: `ScaledSign` where none is given.
        clip: largest magnitude of the latent weights, above 0.
        kernel_initializer: Keras initializer of the latent weights.

    Returns:
        Float [N, ceil(H / strides), ceil(W / strides), filters].
    """
    return BinaryConv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        pad_values=1.0,
        use_bias=False,
        kernel_quantizer=kernel_quantizer or ScaledSign(),
        kernel_constraint=lq.constraints.WeightClip(clip),
        kernel_initializer=kernel_initializer,
        name=name,
    )(x)


def batch_norm(x: tf.Tensor, name: str) -> tf.Tensor:
    """Batch normalisation over [N, H, W] with PyTorch's default momentum (0.9 here) and epsilon."""
    return tf.keras.layers.BatchNormalization(momentum=0.9, epsilon=1e-5, name=name)(x)


def is_binary_conv(layer: Any) -> bool:
    """Whether a Keras layer is a convolution with a kernel quantized to one bit."""
    quantizer = getattr(layer, "kernel_quantizer", None)
    return isinstance(layer, tf.keras.layers.Conv2D) and getattr(quantizer, "precision", None) == 1


def binary_layers(model: tf.keras.Model) -> list[tf.keras.layers.Layer]:
    """The model's binary convolutions, in order."""
    return [layer for layer in model.layers if is_binary_conv(layer)]

"""The binary convolution as a Keras layer: larq's, with a faster form for training on a CPU.

    layer = BinaryConv2D(64, 3, padding="same", pad_values=1.0, kernel_quantizer=ScaledSign())

In evaluation and export it is `larq.layers.QuantConv2D`. In training it computes the same function
and gradients (`candle_tf.students.conv_kernels.convolution`), in the form that `TrainingForm` says.
"""

from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.students.compute_policy import TrainingForm
from candle_tf.students.conv_kernels.convolution import convolve
from candle_tf.students.layers.quantizers import OneBitKernel


@tf.keras.utils.register_keras_serializable("candle_tf")
class BinaryConv2D(TrainingForm, lq.layers.QuantConv2D):
    """A convolution of +-1 activations with a kernel of two values per output channel.

    Arguments are those of `larq.layers.QuantConv2D`. Where the layer is a usual one (square,
    "same", no groups, dilation, activation or input quantizer), training uses the form for it; else
    larq's own.

    Inputs: activations in {-1, +1}, float32 or, from a sign layer in training, bfloat16
    [N, H, W, C]. Outputs: float32 [N, ceil(H / strides), ceil(W / strides), filters].
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        # Keras would cast a sign's bfloat16 to float32 on the way in.
        super().__init__(*args, **{**options, "autocast": False})

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        operands = self.operands(training)
        if operands is None or not self._is_usual(inputs):
            return super().call(tf.cast(inputs, self.compute_dtype))
        kernel, scale = self._kernel_and_scale(operands)
        y = convolve(tf.cast(inputs, kernel.dtype), kernel, self.strides[0], self.pad_values, scale)
        return tf.nn.bias_add(y, self.bias) if self.use_bias else y

    def _kernel_and_scale(self, operands: tf.DType) -> tuple[tf.Tensor, tf.Tensor | None]:
        if isinstance(self.kernel_quantizer, OneBitKernel):
            # Outside of larq's quantized scope the variable is read as it is: the latent weights.
            latent = tf.convert_to_tensor(self.kernel)
            return self.kernel_quantizer.values_and_scale(latent, operands, self._bound())
        # Kernels between -1 and +1 (BNext's, while they are annealed) would be rounded in bfloat16.
        with lq.context.quantized_scope(True):
            return tf.convert_to_tensor(self.kernel), None

    def _is_usual(self, inputs: tf.Tensor) -> bool:
        return (
            self.input_quantizer is None
            and self.padding == "same"
            and self.data_format == "channels_last"
            and self.groups == 1
            and self.dilation_rate == (1, 1)
            and self.kernel_size[0] == self.kernel_size[1]
            and self.strides[0] == self.strides[1]
            and self.activation in (None, tf.keras.activations.linear)
            and None not in inputs.shape[1:]
        )

    def _bound(self) -> float:
        """What latent weights are clipped to after each update."""
        clip = isinstance(self.kernel_constraint, lq.constraints.WeightClip)
        return float(self.kernel_constraint.clip_value) if clip else float("inf")

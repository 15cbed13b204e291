"""The binary convolution as a Keras layer: larq's, with native operators.

    layer = BinaryConv2D(64, 3, padding="same", pad_values=1.0, kernel_quantizer=ScaledSign())

Called in evaluation and export it is `larq.layers.QuantConv2D`. In training, where its compute
policy is native, it computes the same function and gradients by `candle_tf.native`; for validation
`candle_tf.students.fused_forward` computes it so as well.
"""

from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.native.convolution import convolve, convolve_signs
from candle_tf.native.ops import binarize
from candle_tf.students.compute_policy import ComputePolicyLayer
from candle_tf.students.layers.quantizers import OneBitKernel


@tf.keras.utils.register_keras_serializable("candle_tf")
class BinaryConv2D(ComputePolicyLayer, lq.layers.QuantConv2D):
    """A convolution of +-1 activations with a kernel of two values per output channel.

    Arguments are those of `larq.layers.QuantConv2D`. A native policy applies where the layer is a
    usual one (square, "same", no groups, dilation, activation or input quantizer); others are
    computed as larq does.

    Inputs: activations in {-1, +1}, float32 or, from a sign layer in training, bfloat16
    [N, H, W, C]. Outputs: float32 [N, ceil(H / strides), ceil(W / strides), filters].
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        # Keras would cast bfloat16 inputs to float32.
        super().__init__(*args, **{**options, "autocast": False})

    def call(self, inputs: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        if training and self.may_run_natively(inputs):
            return self.call_natively(inputs, tf.as_dtype(self.compute_policy.dtype))
        return super().call(tf.cast(inputs, self.compute_dtype))

    def call_natively(self, inputs: tf.Tensor, dtype: tf.DType) -> tf.Tensor:
        """The layer's outputs by native operators, where `may_run_natively`.

        Args:
            inputs: as of `convolve_natively`.
            dtype: of the operands, float32 or bfloat16.
        """
        y, scale = self.convolve_natively(inputs, dtype)
        y = tf.cast(y, tf.float32)
        y = y if scale is None else y * scale
        return tf.nn.bias_add(y, self.bias) if self.use_bias else y

    def convolve_natively(
        self, inputs: tf.Tensor, dtype: tf.DType
    ) -> tuple[tf.Tensor, tf.Tensor | None]:
        """The convolution by native operators, without its scale and bias.

        Args:
            inputs: -1 and +1, float32 or bfloat16 [N, H, W, C].
            dtype: of the operands, float32 or bfloat16.

        Returns:
            y: float32 or of `dtype` [N, ceil(H / strides), ceil(W / strides), filters]; what
                belongs to the layer is scale * y.
            scale: above 0, float32 [filters] without a gradient; None for 1.
        """
        if not isinstance(self.kernel_quantizer, OneBitKernel):
            # Kernels between -1 and +1 (BNext's, while they are annealed) would be rounded in
            # bfloat16.
            with lq.context.quantized_scope(True):
                kernel = tf.convert_to_tensor(self.kernel)
            x = tf.cast(inputs, kernel.dtype)
            return convolve(x, kernel, self.pad_values, self.strides[0]), None
        # Outside of larq's quantized scope the variable is read as it is: the latent weights.
        values, scale = binarize(
            tf.convert_to_tensor(self.kernel),
            dtype,
            floor=self.kernel_quantizer.min_scale,
            clip=self._mask(),
        )
        magnitude = 1.0 if scale is None else 0.5
        x = tf.cast(inputs, values.dtype)
        return convolve_signs(x, values, self.pad_values, self.strides[0], magnitude), scale

    def may_run_natively(self, inputs: Any) -> bool:
        """Whether the policy is native and the operators compute such a layer."""
        return self.uses_native() and self._is_usual(inputs)

    def _mask(self) -> float:
        """Beyond which magnitude latent weights get no gradient; infinite where none gets there."""
        region = self.kernel_quantizer.region
        return float("inf") if self._bound() <= region else region

    def _is_usual(self, inputs: Any) -> bool:
        """Whether the operators compute it, for inputs with a shape."""
        signs = isinstance(self.kernel_quantizer, OneBitKernel)
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
            and (not signs or self.pad_values in (-1, 0, 1))
        )

    def _bound(self) -> float:
        """Magnitude that latent weights are clipped to after each update."""
        clip = isinstance(self.kernel_constraint, lq.constraints.WeightClip)
        return float(self.kernel_constraint.clip_value) if clip else float("inf")

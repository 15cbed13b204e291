"""Gates of BNext: factors per channel, from a mix of a binary convolution's input and output.

mixed = Mix()([block_input, y])         # s * block_input + (1 - s) * y
y = y * gate(mixed, "unit")             # one factor in (0, 1) per image and channel
"""

import tensorflow as tf

from candle_tf.students.layers.pooling import GlobalMeanPool

# Channels of a gate over the channels of its bottleneck.
REDUCTION = 8


class UnitInterval(tf.keras.constraints.Constraint):
    """Clips a variable's values to [0, 1]."""

    def __call__(self, w: tf.Tensor) -> tf.Tensor:
        return tf.clip_by_value(w, 0.0, 1.0)


@tf.keras.utils.register_keras_serializable("candle_tf")
class Mix(tf.keras.layers.Layer):
    """Learned mean of two tensors: y = s * a + (1 - s) * b.

    Two floats [..., C] to one of the same shape. s is learned per channel, clipped to [0, 1] by a
    constraint, and initialized to 0.5. Source: BNext (Guo et al., arXiv
    2211.12933), information recoupling.
    """

    def build(self, input_shape: list[tf.TensorShape]) -> None:
        self.share = self.add_weight(
            name="share",
            shape=input_shape[0][-1:],
            initializer=tf.keras.initializers.Constant(0.5),
            constraint=UnitInterval(),
        )
        super().build(input_shape)

    def call(self, inputs: list[tf.Tensor]) -> tf.Tensor:
        first, second = inputs
        # s * a + (1 - s) * b with one product fewer.
        return second + self.share * (first - second)


def gate(x: tf.Tensor, name: str) -> tf.Tensor:
    """Gate by squeeze-and-excitation (Hu et al., CVPR 2018), in float.

    Mean, 1x1 convolution, ReLU, 1x1 convolution, sigmoid.

    Args:
        x: float [N, H, W, C], C at least `REDUCTION`.
        name: prefix of the layers' names.

    Returns:
        Factors in (0, 1), float [N, 1, 1, C].
    """
    channels = int(x.shape[-1])
    y = GlobalMeanPool(keepdims=True, name=f"{name}_gate_mean")(x)
    # Convolutions, not dense layers: those would need reshapes, which stay in the exported file.
    y = tf.keras.layers.Conv2D(
        channels // REDUCTION, 1, activation="relu", name=f"{name}_gate_squeeze"
    )(y)
    return tf.keras.layers.Conv2D(channels, 1, activation="sigmoid", name=f"{name}_gate_excite")(y)

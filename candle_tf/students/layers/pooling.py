"""Means over whole maps, rounded the same way in Keras and in the converted file.

features = GlobalMeanPool(name="features")(x)           # [N, H, W, C] to [N, C]
"""

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("candle_tf")
class GlobalMeanPool(tf.keras.layers.GlobalAveragePooling2D):
    """Keras's global average pooling, summed column by column and then over the row of means.

    Float [N, H, W, C] to [N, C], or to [N, 1, 1, C] with `keepdims`.

    TensorFlow Lite adds up a whole map one value after the other in float32: over 112 x 112 values
    such a mean was measured to be off by 2e-6, where Keras's is by 4e-7 and other float steps are
    by 1e-7. A gate multiplies that into a whole channel, and turns signs further on. Two sums of
    112 values each are off by 1e-7 on both sides.
    """

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return tf.reduce_mean(
            tf.reduce_mean(inputs, axis=1, keepdims=self.keepdims),
            axis=2 if self.keepdims else 1,
            keepdims=self.keepdims,
        )

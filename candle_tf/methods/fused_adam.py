"""Adam whose update of a variable is one pass over memory.

optimizer = FusedAdam(1e-3, weight_decay=1e-4)      # arguments of tf.keras.optimizers.Adam
"""

from functools import partial
from typing import Any

import tensorflow as tf


@tf.keras.utils.register_keras_serializable("candle_tf")
class FusedAdam(tf.keras.optimizers.Adam):
    """Keras's Adam (Kingma & Ba, ICLR 2015) on TensorFlow's fused kernel.

    Keras writes the update as some ten operators, each of which reads and writes an array of the
    variable's size; a binary network has tens of millions of latent weights and moves all of them
    in every step. `ResourceApplyAdam` computes the same in one. Its moments, its handling of
    weight decay, clipping and constraints, and its checkpoints are those of Keras's Adam.
    """

    def update_step(self, gradient: Any, variable: tf.Variable) -> None:
        """Moves one variable; sparse gradients and AMSGrad take Keras's own way."""
        if self.amsgrad or isinstance(gradient, tf.IndexedSlices):
            super().update_step(gradient, variable)
            return
        index = self._index_dict[self._var_key(variable)]
        number = partial(tf.cast, dtype=variable.dtype)
        step = number(self.iterations + 1)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].handle,
            v=self._velocities[index].handle,
            beta1_power=tf.pow(number(self.beta_1), step),
            beta2_power=tf.pow(number(self.beta_2), step),
            lr=number(self.learning_rate),
            beta1=number(self.beta_1),
            beta2=number(self.beta_2),
            epsilon=number(self.epsilon),
            grad=gradient,
        )

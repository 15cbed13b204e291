"""Adam whose update of a variable is one pass over memory.

optimizer = FusedAdam(1e-3, weight_decay=1e-4)      # arguments of tf.keras.optimizers.Adam
"""

from collections.abc import Iterable
from functools import partial
from typing import Any

import larq as lq
import tensorflow as tf

from candle_tf.native.ops import adam


@tf.keras.utils.register_keras_serializable("candle_tf")
class FusedAdam(tf.keras.optimizers.Adam):
    """Keras's Adam (Kingma & Ba, ICLR 2015) on TensorFlow's fused kernel.

    Keras writes the update as some ten operators, each of which reads and writes an array of the
    variable's size; a binary network has tens of millions of latent weights and moves all of them
    in every step. `ResourceApplyAdam` computes the same in one. Its moments, its handling of
    weight decay, clipping and constraints, and its checkpoints are those of Keras's Adam.

    Attributes:
        native: whether one native operator updates all variables, weight decay and the clipping of
            latent weights included. Not under tf.distribute, nor for sparse gradients, AMSGrad and
            moving averages of weights.
    """

    native: bool = False

    def apply_gradients(self, grads_and_vars: Iterable[Any], *args: Any, **options: Any) -> Any:
        """Moves all variables, and applies their constraints."""
        pairs = [(g, v) for g, v in grads_and_vars if g is not None]
        if not pairs or not self._serves(pairs):
            return super().apply_gradients(pairs, *args, **options)
        self._compute_current_learning_rate()
        with tf.init_scope():
            self.build([variable for _, variable in pairs])
        gradients = self._clip_gradients([gradient for gradient, _ in pairs])
        variables = [variable for _, variable in pairs]
        slots = [self._index_dict[self._var_key(variable)] for variable in variables]
        decay = self.weight_decay or 0.0
        adam(
            variables,
            [self._momentums[slot] for slot in slots],
            [self._velocities[slot] for slot in slots],
            gradients,
            learning_rate=tf.cast(self.learning_rate, tf.float32),
            step=self.iterations + 1,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
            decays=[decay if self._use_weight_decay(variable) else 0.0 for variable in variables],
            clips=[_bound(variable) for variable in variables],
        )
        for variable in variables:
            if variable.constraint is not None and not _bound(variable):
                variable.assign(variable.constraint(variable))
        return self.iterations.assign_add(1)

    def _serves(self, pairs: list[Any]) -> bool:
        return (
            self.native
            and not (self.amsgrad or self.use_ema or tf.distribute.has_strategy())
            and all(
                isinstance(gradient, tf.Tensor) and variable.dtype == tf.float32
                for gradient, variable in pairs
            )
        )

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


def _bound(variable: tf.Variable) -> float:
    """What larq's clipping holds a variable's magnitude to; 0 without it."""
    clips = isinstance(variable.constraint, lq.constraints.WeightClip)
    return float(variable.constraint.clip_value) if clips else 0.0

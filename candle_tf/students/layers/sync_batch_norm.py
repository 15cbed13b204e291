"""Batch norm whose statistics are those of all replicas' shares of a batch.

with strategy.scope():
    student = build()
    synchronize_batch_norm(student)         # before it is first called in training

Keras's own synchronized layer keeps the plain variance in its moving average, where its layer for
one device keeps the unbiased one (times n / (n - 1)): small maps would give other figures in
evaluation. Here several replicas give what one gives, to rounding.
"""

from typing import Any

import tensorflow as tf


class SyncBatchNorm(tf.keras.layers.BatchNormalization):
    """Batch norm in training over float `[B, ..., C]` in equal shares of all replicas.

    Replicas exchange `[2, C]` in the forward and in the backward pass. What `Layer.get_config` says
    is a batch norm of one device: this class is for training alone.
    """

    def _calculate_mean_and_var(
        self, inputs: tf.Tensor, reduction_axes: Any, keep_dims: bool, mask: Any = None
    ) -> tuple[tf.Tensor, tf.Tensor]:
        if mask is not None:
            raise ValueError(f"{self.name}: synchronized batch norm takes no mask")
        mean, variance = tf.nn.moments(inputs, reduction_axes, keepdims=keep_dims)
        context = tf.distribute.get_replica_context()
        replicas = context.num_replicas_in_sync
        # E x^2 of each share from its own variance: fewer digits cancel than of its squares.
        shares = tf.stack([mean, variance + tf.square(mean)])
        mean, square = tf.unstack(context.all_reduce("SUM", shares) / replicas)
        count = tf.cast(replicas * tf.size(inputs) // tf.size(mean), mean.dtype)
        self._unbiased = count / tf.maximum(count - 1.0, 1.0)
        return mean, tf.maximum(square - tf.square(mean), 0.0)

    def _assign_moving_average(
        self, variable: tf.Variable, value: tf.Tensor, momentum: float, inputs_size: Any
    ) -> Any:
        if variable is self.moving_variance:
            value *= self._unbiased
        return super()._assign_moving_average(variable, value, momentum, inputs_size)


def synchronize_batch_norm(network: tf.keras.Model) -> None:
    """Makes all batch norm layers of a network, built in a strategy's scope, synchronized ones."""
    for layer in network.submodules:
        if type(layer) is tf.keras.layers.BatchNormalization:
            # Its variables and all that it was made with stay.
            layer.__class__ = SyncBatchNorm
            layer.fused = False

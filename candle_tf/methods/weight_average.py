"""An exponential moving average of weights, and how a training validates and saves it.

    trainer.average_weights(decay=0.999)                # a part of every step from here on
    fit(trainer, ..., callbacks=[UseAverage()])

    a_t = a_{t-1} + r_t (w_t - a_{t-1}),    r_t = (1 - d) / (1 - d^t)

over the steps t = 1, 2, ... With this rate a_t is the sum of (1 - d) d^(t - i) w_i divided by that
of its factors: the bias correction of Adam's moments (Kingma & Ba, ICLR 2015, section 3). The
weights before the first step have no part in it. Averages of latent weights are averaged latent
weights: binary kernels are the signs of them. Statistics of batch norms are not averaged but
re-estimated (`batch_norm_statistics`).

After an epoch's steps the network holds the averages, and `WeightAverage` what was trained: so they
are validated, saved and exported, and whoever reads the network of a checkpoint reads averages. The
next epoch begins by exchanging the two again. Checkpoints hold both, so that a resumed training is
the one that was not interrupted.
"""

from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from candle_tf.methods.before_validation import BeforeValidation


class WeightAverage(tf.Module):
    """The averages of some variables, as a part of a trainer's checkpoints.

    The variables are arguments: tracked here as well, they would be in checkpoints by two names.

    Args:
        variables: float; to be given to the other methods in the same order.
        decay: d, in (0, 1).
    """

    def __init__(self, variables: Sequence[tf.Variable], decay: float) -> None:
        super().__init__(name="weight_average")
        self.decay = decay
        self.values = [
            tf.Variable(tf.zeros_like(variable), trainable=False, name=f"average_{number}")
            for number, variable in enumerate(variables)
        ]

    def update(self, variables: Sequence[tf.Variable], step: tf.Tensor) -> None:
        """Adds the variables after a step.

        Args:
            variables: as above.
            step: int64 scalar, 1 after the first step; the averages before that do not count.
        """
        # In float32 1 - d^t of a decay near 1 would lose digits at first.
        decay = tf.constant(self.decay, tf.float64)
        rate = (1.0 - decay) / (1.0 - tf.pow(decay, tf.cast(step, tf.float64)))
        for average, variable in zip(self.values, variables, strict=True):
            value = tf.convert_to_tensor(variable)
            average.assign_add(tf.cast(rate, value.dtype) * (value - average))

    def exchange(self, variables: Sequence[tf.Variable]) -> None:
        """The variables get the averages' values, and the averages those of the variables."""
        for average, variable in zip(self.values, variables, strict=True):
            value = variable.read_value()
            variable.assign(average)
            average.assign(value)


class UseAverage(BeforeValidation):
    """Makes a trainer's network the average after each epoch's steps, and before its next one's
    what was trained. For a trainer whose `average_weights` was called."""

    def run(self, epoch: int) -> None:  # noqa: ARG002
        self.model.exchange_average()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        super().on_epoch_begin(epoch, logs)
        # As the epoch before left it, in this process or in its checkpoint.
        if epoch > 0:
            self.model.exchange_average()

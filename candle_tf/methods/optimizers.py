"""The optimizers and the learning rate schedule; `parameter_groups` assigns them to weights."""

from typing import Any, TypeAlias

import larq as lq
import tensorflow as tf

from candle_tf.methods.fused_adam import FusedAdam

Rate: TypeAlias = "float | tf.keras.optimizers.schedules.LearningRateSchedule"


def adam(rate: Rate, weight_decay: float = 0.0) -> Any:
    """Adam in one pass; XLA off, as it is slower on CPUs and TensorFlow's kernels serve GPUs."""
    return FusedAdam(rate, weight_decay=weight_decay or None, jit_compile=False)


def sgd(rate: Rate, weight_decay: float = 0.0) -> Any:
    """Keras's SGD with momentum 0.9, XLA off as in `adam`."""
    return tf.keras.optimizers.SGD(
        rate, momentum=0.9, weight_decay=weight_decay or None, jit_compile=False
    )


class Bop(lq.optimizers.Bop):
    """larq's Bop, an optimizer of Keras's older kind, with the `build` that trainers call.

    Being of that kind it cannot share larq's CaseOptimizer with Keras's present Adam; in a
    parameter group of its own it can run beside it.
    """

    def build(self, variables: list[tf.Variable]) -> None:
        """Makes the moving averages, so that checkpoints hold them from the start."""
        self._create_all_weights(variables)


def cosine_schedule(peak: float, steps: int, warmup_fraction: float) -> Any:
    """Linear rise over the first part of the steps, then half a cosine down to 0.

    Args:
        peak: highest rate.
        steps: steps of the whole training; the schedule is in fractions of it.
        warmup_fraction: part of the steps in which the rate rises, in [0, 1).
    """
    # At least one step is left to fall in: Keras's cosine over 0 steps is not a number.
    warmup = min(round(warmup_fraction * steps), steps - 1)
    schedules = tf.keras.optimizers.schedules
    if warmup == 0:
        return schedules.CosineDecay(peak, decay_steps=steps)
    return schedules.CosineDecay(
        0.0, decay_steps=steps - warmup, warmup_target=peak, warmup_steps=warmup
    )

"""The optimizers and the learning rate schedule; `parameter_groups` assigns them to weights."""

from typing import Any, TypeAlias

import larq as lq
import tensorflow as tf

from candle_tf.methods.fused_adam import FusedAdam

Rate: TypeAlias = "float | tf.keras.optimizers.schedules.LearningRateSchedule"


def adam(rate: Rate, weight_decay: float = 0.0, clip_norm: float = 0.0) -> Any:
    """Adam in one pass; XLA off, as it is slower on CPUs and TensorFlow's kernels serve GPUs.

    Args:
        rate: learning rate or schedule.
        weight_decay: decoupled; 0 for none.
        clip_norm: bound of the norm of all gradients together; 0 for none.
    """
    return FusedAdam(
        rate,
        weight_decay=weight_decay or None,
        global_clipnorm=clip_norm or None,
        jit_compile=False,
    )


def sgd(rate: Rate, weight_decay: float = 0.0, clip_norm: float = 0.0) -> Any:
    """Keras's SGD with momentum 0.9, XLA off as in `adam`."""
    return tf.keras.optimizers.SGD(
        rate,
        momentum=0.9,
        weight_decay=weight_decay or None,
        global_clipnorm=clip_norm or None,
        jit_compile=False,
    )


class Bop(lq.optimizers.Bop):
    """larq's Bop, an optimizer of Keras's older kind, with the `build` that trainers call.

    Being of that kind it cannot share larq's CaseOptimizer with Keras's present Adam; in a
    parameter group of its own it can run beside it.
    """

    def build(self, variables: list[tf.Variable]) -> None:
        """Makes the moving averages, so that checkpoints hold them from the start."""
        self._create_all_weights(variables)


@tf.keras.utils.register_keras_serializable("candle_tf")
class LinearDecay(tf.keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise from 0, then a linear fall to 0.

    Args:
        peak: highest rate.
        steps: of the whole training, at least 1.
        warmup: steps of the rise, fewer than `steps`.
    """

    def __init__(self, peak: float, steps: int, warmup: int) -> None:
        super().__init__()
        self.peak, self.steps, self.warmup = peak, steps, warmup

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """The rate of a step, float32; 0 after the last."""
        done = tf.cast(step, tf.float32)
        rise = done / self.warmup if self.warmup else tf.ones_like(done)
        fall = (self.steps - done) / (self.steps - self.warmup)
        return self.peak * tf.clip_by_value(tf.minimum(rise, fall), 0.0, 1.0)

    def get_config(self) -> dict[str, Any]:
        """The constructor's arguments."""
        return {"peak": self.peak, "steps": self.steps, "warmup": self.warmup}


def rate_schedule(decay: str, peak: float, steps: int, warmup_fraction: float) -> Any:
    """A linear rise over the first part of the steps, then a fall to 0.

    Args:
        decay: "cosine" or "linear".
        peak, steps, warmup_fraction: as of `cosine_schedule`.
    """
    if decay == "linear":
        return LinearDecay(peak, steps, _warmup_steps(steps, warmup_fraction))
    return cosine_schedule(peak, steps, warmup_fraction)


def _warmup_steps(steps: int, fraction: float) -> int:
    # At least one step is left to fall in: a fall over 0 steps is not a number.
    return min(round(fraction * steps), steps - 1)


def cosine_schedule(peak: float, steps: int, warmup_fraction: float) -> Any:
    """Linear rise over the first part of the steps, then half a cosine down to 0.

    Args:
        peak: highest rate.
        steps: steps of the whole training; the schedule is in fractions of it.
        warmup_fraction: part of the steps in which the rate rises, in [0, 1).
    """
    warmup = _warmup_steps(steps, warmup_fraction)
    schedules = tf.keras.optimizers.schedules
    if warmup == 0:
        return schedules.CosineDecay(peak, decay_steps=steps)
    return schedules.CosineDecay(
        0.0, decay_steps=steps - warmup, warmup_target=peak, warmup_steps=warmup
    )

"""What gives lambda in an adversary's place, in the same total loss: to tell what it is worth.

* `ReplayedBalance`, `ReplayedClassBalance`: lambda of each step as another training recorded it
  (--balance_replay). What a student gains over this, it gains by the adversary's learning.
* `ClosedFormBalancer`: the best lambda of each third of class sizes, by its formula
  (--balance_closed_form). What the MLP loses to this, it loses by its own learning.
* `permute_sizes`: each class has the size of another one (--balance_permute_sizes). If the student
  is no worse, that lambda depends on the class size is of no use.

A constant lambda is `balance.FixedBalance`, of the paper's total loss; in the one of
`class_balance` it is a closed form with a large tau.
"""

from dataclasses import dataclass

import numpy as np
import tensorflow as tf

# Thirds of the range of s; the weight of what was seen before falls by this in each step, as a
# batch has few images of a third. `reporting.adversary` measures with the same two.
THIRDS = 3
DECAY = 0.99


def third_of(sizes: tf.Tensor) -> tf.Tensor:
    """The third of the range in which each s in [0, 1] is, int32, from 0 for the rarest classes."""
    return tf.minimum(tf.cast(sizes * THIRDS, tf.int32), THIRDS - 1)


@dataclass(frozen=True, eq=False)
class ReplayedBalance:
    """Lambda of another training, which had as many steps or is stretched, without variables.

    Attributes:
        lambdas: of each step there, float `[S]` in [0, 1].
        steps: of this training.
    """

    lambdas: np.ndarray
    steps: int

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """lambda, a float32 scalar."""
        return tf.constant(self.lambdas, tf.float32)[_place_of(step, self.steps, len(self.lambdas))]


@dataclass(frozen=True, eq=False)
class ReplayedClassBalance:
    """The same of an adversary that sees the class: between the sizes, logit(lambda) is linear.

    Attributes:
        lambdas: of classes of s = 0, 1/2 and 1 at each step there, float `[S, 3]` in (0, 1).
        steps: of this training.
        prior: lambda_0, in (0, 1).
    """

    lambdas: np.ndarray
    steps: int
    prior: float

    def __call__(self, step: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """What is added to logit(lambda_0), float32 `[B]`, for s float32 `[B]`."""
        safe = np.clip(self.lambdas.astype(np.float64), 1e-7, 1 - 1e-7)
        logits = np.log(safe) - np.log1p(-safe) - np.log(self.prior) + np.log1p(-self.prior)
        rows = tf.constant(logits, tf.float32)
        rare, medium, frequent = tf.unstack(rows[_place_of(step, self.steps, len(logits))])
        lower = rare + (medium - rare) * sizes * 2.0
        upper = medium + (frequent - medium) * (sizes * 2.0 - 1.0)
        return tf.where(sizes < 0.5, lower, upper)


def _place_of(step: tf.Tensor, steps: int, recorded: int) -> tf.Tensor:
    return tf.minimum(tf.cast(step, tf.int64) * recorded // steps, recorded - 1)


@tf.keras.utils.register_keras_serializable("candle_tf")
class ClosedFormBalancer(tf.keras.layers.Layer):
    """logit(lambda) - logit(lambda_0) = E[k - f | third of class sizes] / tau.

    The means are of the steps before, so no gradient goes through lambda; without an image of a
    third so far it is 0. It is built by its constructor; no optimizer moves its weights.

    Args:
        tau: of the barrier, above 0.
        name: the Keras name.
    """

    def __init__(self, tau: float, name: str = "closed_form_balancer") -> None:
        super().__init__(name=name)
        self._tau = tau
        self.build([])

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the variables, of a fixed size."""
        self._share, self._excess = (
            self.add_weight(
                name=name,
                shape=[THIRDS],
                initializer="zeros",
                trainable=False,
                aggregation=tf.VariableAggregation.MEAN,
            )
            for name in ("share", "excess")
        )
        super().build(input_shape)

    def call(self, step: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:  # noqa: ARG002
        """Float32 `[B]`, for s float32 `[B]`; the same at any `step`."""
        return tf.gather(
            tf.math.divide_no_nan(self._excess, self._share) / self._tau, third_of(sizes)
        )

    def observe(self, share: tf.Tensor, excess: tf.Tensor) -> None:
        """Takes a step's losses into the means.

        Args:
            share: of each third among the batch's images, float32 `[3]`.
            excess: sum of its images' k - f, over the batch's size, float32 `[3]`.
        """
        self._share.assign(DECAY * self._share + share)
        self._excess.assign(DECAY * self._excess + excess)


def permute_sizes(sizes: np.ndarray, seed: int) -> np.ndarray:
    """The same values, each of another class where there are two classes or more.

    Args:
        sizes: s of each class, float `[C]`.
        seed: of the permutation.
    """
    # A cycle through all classes in random order leaves none in its place.
    order = np.random.default_rng(seed).permutation(len(sizes))
    permuted = np.empty_like(sizes)
    permuted[order] = sizes[np.roll(order, 1)]
    return permuted

"""The balance between the two distillation terms: the adversary, its objective and its references.

The objective of CANDLE's min-max is linear in lambda, so the adversary that maximises it belongs at
an end: the larger term takes everything and the other teaches nothing. Lambda's entropy, added as a
barrier, leaves the adversary something to decide: for terms a and b its best answer is then
sigmoid((a - b) / tau) in place of 0 or 1. Two more choices make the answer a useful one:

* tau is in units of the KL loss of a uniform prediction (`uniform_prediction_losses`), so that one
  setting serves ten classes and ten thousand. Lambda then begins near 1, where KL is far the larger
  term, and comes down as the student learns what KL has to teach;
* the teacher's features are centred (in `distill`), because features after a ReLU share a large
  mean and the cosine to it is small before anything has been learned.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

_NOISE_SIZE = 8
_HIDDEN = 32


@tf.keras.utils.register_keras_serializable("candle_tf")
class Balancer(tf.keras.layers.Layer):
    """phi: noise xi -> lambda in (0, 1), a small MLP with a sigmoid at its end.

    The last layer starts near zero, so lambda starts near 1/2. Source: CANDLE, section 3.
    """

    def __init__(self, seed: int = 0, name: str = "balancer") -> None:
        super().__init__(name=name)
        self._seed = seed
        self._hidden = tf.keras.layers.Dense(
            _HIDDEN,
            activation="tanh",
            kernel_initializer=tf.keras.initializers.GlorotUniform(seed),
        )
        self._last = tf.keras.layers.Dense(
            1, kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01, seed=seed + 1)
        )

    def build(self, input_shape: tf.TensorShape) -> None:
        self._hidden.build([1, _NOISE_SIZE])
        self._last.build([1, _HIDDEN])
        super().build(input_shape)

    def call(self, step: tf.Tensor) -> tf.Tensor:
        """lambda, a float32 scalar, for the noise that belongs to `step` (int scalar)."""
        seed = tf.stack([tf.constant(self._seed, tf.int64), tf.cast(step, tf.int64)])
        noise = tf.random.stateless_normal([1, _NOISE_SIZE], seed, alg="philox")
        return tf.sigmoid(self._last(self._hidden(noise)))[0, 0]


def entropy(probability: tf.Tensor) -> tf.Tensor:
    """H(p) = -p log p - (1 - p) log(1 - p) in nats; finite at both ends."""
    safe = tf.clip_by_value(probability, 1e-7, 1.0 - 1e-7)
    return -safe * tf.math.log(safe) - (1.0 - safe) * tf.math.log1p(-safe)


@dataclass(frozen=True)
class Objective:
    """L = lambda * KL / kl_reference + (1 - lambda) * FS / fs_reference + tau * H(lambda).

    The student minimizes it and the balancer maximizes it; the entropy does not depend on the
    student.
    References of 1 and tau = 0 are the plain reading of the paper. With both references at what an
    uniform-prediction baseline has, the adversary favours the term that has come less far.
    """

    kl_reference: float = 1.0
    fs_reference: float = 1.0
    entropy_weight: float = 0.0

    def __call__(self, kl: tf.Tensor, fs: tf.Tensor, lam: tf.Tensor) -> tf.Tensor:
        """Scalars kl, fs and lambda to the scalar objective."""
        balanced = lam * kl / self.kl_reference + (1.0 - lam) * fs / self.fs_reference
        return balanced + self.entropy_weight * entropy(lam)


def uniform_prediction_losses(
    teacher_logits: Iterable[np.ndarray], temperature: float
) -> tuple[float, float]:
    """Both terms for a student that knows nothing: the same logit for every class, no cosine.

    Args:
        teacher_logits: the teacher's answers on training images, in blocks of float [n, C].
        temperature: T of the KL term.

    Returns:
        kl: T^2 * mean KL(softmax(z_T / T) || uniform).
        fs: 1.
    """
    total, count = 0.0, 0
    for block in teacher_logits:
        scaled = np.asarray(block, np.float64) / temperature
        scaled -= scaled.max(axis=1, keepdims=True)
        log_p = scaled - np.log(np.exp(scaled).sum(axis=1, keepdims=True))
        total += np.sum(np.exp(log_p) * (log_p + np.log(scaled.shape[1])))
        count += len(scaled)
    return float(temperature**2 * total / count), 1.0

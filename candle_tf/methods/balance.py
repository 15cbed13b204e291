"""The balance between the two distillation losses: lambda, the total loss and its references.

CANDLE's total loss is linear in lambda, so an adversary that maximizes it ends at 0 or 1: the
larger loss gets all the weight and the other is not trained. The entropy of lambda, added to the
total loss, gives it an inner maximum: for losses a and b it is at lambda = sigmoid((a - b) / tau).
Two more choices make this lambda useful:

* tau is in units of the KL loss of the uniform-prediction baseline (`uniform_prediction_losses`),
  so that one setting serves ten classes and ten thousand. Lambda then begins near 1, where KL is
  far the larger loss, and falls as the student learns;
* the mean of the teacher's features is subtracted (in `distillation`), because features after a
  ReLU share a large mean, and the cosine distance to it is small before anything is learned.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods.balance_controls import ReplayedBalance
from candle_tf.methods.registry import BALANCES, LOGIT_LOSSES
from candle_tf.methods.settings import BalanceSettings
from candle_tf.methods.trainer import TOTAL_LOSS

NOISE_SIZE = 8
HIDDEN = 32


def hidden_layer(seed: int) -> tf.keras.layers.Dense:
    """The first layer of an adversary's MLP; it takes noise."""
    initializer = tf.keras.initializers.GlorotUniform(seed)
    return tf.keras.layers.Dense(HIDDEN, activation="tanh", kernel_initializer=initializer)


def draw_noise(seed: int, step: tf.Tensor) -> tf.Tensor:
    """Noise of a step (int scalar), float32 `[1, NOISE_SIZE]`; the same in a resumed training."""
    seeds = tf.stack([tf.constant(seed, tf.int64), tf.cast(step, tf.int64)])
    return tf.random.stateless_normal([1, NOISE_SIZE], seeds, alg="philox")


@tf.keras.utils.register_keras_serializable("candle_tf")
class Balancer(tf.keras.layers.Layer):
    """phi: noise xi -> lambda in (0, 1), a small MLP with a sigmoid at its end.

    The last layer starts near zero, so lambda starts near 1/2. It is built by its constructor.
    Source: CANDLE, section 3.

    Args:
        seed: of the initial weights and of the noise.
        name: the Keras name.
    """

    def __init__(self, seed: int = 0, name: str = "balancer") -> None:
        super().__init__(name=name)
        self._seed = seed
        self._hidden = hidden_layer(seed)
        self._last = tf.keras.layers.Dense(
            1, kernel_initializer=tf.keras.initializers.RandomNormal(stddev=0.01, seed=seed + 1)
        )
        self.build([])

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the variables, of a fixed size."""
        self._hidden.build([1, NOISE_SIZE])
        self._last.build([1, HIDDEN])
        super().build(input_shape)

    def call(self, step: tf.Tensor) -> tf.Tensor:
        """lambda, a float32 scalar, for the noise of `step` (int scalar)."""
        return tf.sigmoid(self._last(self._hidden(draw_noise(self._seed, step))))[0, 0]


@dataclass(frozen=True)
class FixedBalance:
    """The same lambda, in [0, 1], at every step: in place of a `Balancer`, without variables."""

    value: float

    def __call__(self, step: tf.Tensor) -> tf.Tensor:  # noqa: ARG002
        """lambda, a float32 scalar."""
        return tf.constant(self.value, tf.float32)


@dataclass(frozen=True)
class ScheduledBalance:
    """lambda_t = end - (end - start) (1 + cos(pi t / T)) / 2, from `start` to `end`, no variables.

    Source: BURN (Kim & Choi, CVPR 2022), from 0.1 to 0.3.

    Attributes:
        start, end: lambda at the first and the last step, in [0, 1].
        steps: T, of the training.
    """

    start: float
    end: float
    steps: int

    def __call__(self, step: tf.Tensor) -> tf.Tensor:
        """lambda, a float32 scalar."""
        progress = tf.minimum(tf.cast(step, tf.float32) / self.steps, 1.0)
        return self.end - (self.end - self.start) * (1.0 + tf.cos(np.pi * progress)) / 2.0


def balance_without_adversary(
    settings: BalanceSettings, steps: int
) -> FixedBalance | ScheduledBalance | None:
    """What gives lambda where no adversary does; None where one does.

    Args:
        settings: with --balance.
        steps: of the training.
    """
    if settings.balance == "fixed":
        return FixedBalance(settings.fixed_lambda)
    if settings.balance == "schedule":
        return ScheduledBalance(settings.first_lambda, settings.last_lambda, steps)
    return None


def entropy(probability: tf.Tensor) -> tf.Tensor:
    """H(p) = -p log p - (1 - p) log(1 - p) in nats; finite at both ends."""
    safe = tf.clip_by_value(probability, 1e-7, 1.0 - 1e-7)
    return -safe * tf.math.log(safe) - (1.0 - safe) * tf.math.log1p(-safe)


@dataclass(frozen=True)
class TotalLoss:
    """L = lambda * KL / kl_reference + (1 - lambda) * FS / fs_reference + tau * H(lambda).

    The student minimizes it and the balancer maximizes it; the entropy does not depend on the
    student. References of 1 and tau = 0 are the plain reading of the paper. With both references at
    the losses of the uniform-prediction baseline, the adversary favours the loss that has fallen
    less.
    """

    # Of the balancer, times --balance_learning_rate.
    learning_rate_factor: ClassVar[float] = 1.0
    # Of steps.csv, which a replay reads.
    lambda_columns: ClassVar[tuple[str, ...]] = ("lambda",)

    kl_reference: float = 1.0
    fs_reference: float = 1.0
    entropy_weight: float = 0.0

    def __call__(self, kl: tf.Tensor, fs: tf.Tensor, lam: tf.Tensor) -> tf.Tensor:
        """Scalars KL, FS and lambda to the scalar total loss."""
        balanced = lam * kl / self.kl_reference + (1.0 - lam) * fs / self.fs_reference
        return balanced + self.entropy_weight * entropy(lam)

    @property
    def is_relative(self) -> bool:
        """Whether the KL loss is measured in units of a baseline's."""
        return self.kl_reference != 1.0

    def build_balancer(self, seed: int) -> Any:
        """The adversary that this total loss is balanced by."""
        return Balancer(seed)

    def build_replay(self, lambdas: np.ndarray, steps: int) -> Any:
        """What gives another training's lambda in the adversary's place.

        Args:
            lambdas: its `lambda_columns`, float `[S, columns]`.
            steps: of this training.
        """
        return ReplayedBalance(lambdas[:, 0], steps)

    def balance(
        self,
        balancer: Any,
        kl: tf.Tensor,
        fs: tf.Tensor,
        labels: tf.Tensor,  # noqa: ARG002
        step: tf.Tensor,
        labelled: tf.Tensor | None = None,  # noqa: ARG002
    ) -> dict[str, tf.Tensor]:
        """The losses of a batch.

        Args:
            balancer: of `build_balancer` or `build_replay`, a `FixedBalance` or a
                `ScheduledBalance`; gives lambda.
            kl, fs: losses of each example, float `[B]`.
            labels: int `[B]`.
            step: number of the step, int scalar.
            labelled: which examples have labels, bool `[B]`, at least one; None if all have.

        Returns:
            Scalars: `TOTAL_LOSS`, "kl", "fs" and "lambda".
        """
        kl, fs = tf.reduce_mean(kl), tf.reduce_mean(fs)
        lam = balancer(step)
        return {TOTAL_LOSS: self(kl, fs, lam), "kl": kl, "fs": fs, "lambda": lam}


@dataclass(frozen=True, eq=False)
class BalanceInputs:
    """What a total loss is built from, besides its settings.

    Attributes:
        teacher_logits: gives the teacher's logits of training images, in blocks of float `[n, C]`;
            called only where a balance needs the losses of a baseline. May be called again.
        feature_reference: the feature loss of a student that does not tell images apart; of the
            cosine that of one that knows no direction, 1.
        counts: training images of each class, int `[C]`.
        sampler: how often each class is sampled, see `data.samplers`, with `epochs` in all and
            `sampler_start`.
        floors: KL and feature loss at which a training with a fixed lambda ends, at least 0.
        feature_of_mean: the feature loss of the best constant prediction, at least 0.
        epochs: of the training.
        steps_in_epoch: steps of each of them.
        sampler_start: fraction of the epochs before a deferred sampler begins.
        seed: of the permutation of --balance_permute_sizes.
    """

    teacher_logits: Callable[[], Iterable[np.ndarray]]
    feature_reference: float
    counts: np.ndarray
    sampler: str
    floors: tuple[float, float] = (0.0, 0.0)
    feature_of_mean: float = 1.0
    epochs: int = 1
    steps_in_epoch: int = 1
    sampler_start: float = 0.5
    seed: int = 0


def uniform_prediction_losses(
    teacher_logits: Iterable[np.ndarray], temperature: float
) -> tuple[float, float]:
    """Both losses of the uniform-prediction baseline: equal logits for all classes, no cosine.

    Args:
        teacher_logits: the teacher's logits of training images, in blocks of float `[n, C]`.
        temperature: T of the KL loss.

    Returns:
        kl: T^2 * mean KL(softmax(z_T / T) || uniform).
        fs: 1.
    """
    total, count = 0.0, 0
    for block in teacher_logits:
        log_p = _log_softmax(np.asarray(block, np.float64) / temperature)
        total += np.sum(np.exp(log_p) * (log_p + np.log(log_p.shape[1])))
        count += len(log_p)
    return float(temperature**2 * total / count), 1.0


def mean_prediction_loss(logits: Iterable[np.ndarray], temperature: float) -> float:
    """The KL loss of the best constant prediction, which is the mean of the teacher's.

    T^2 mean KL(p_i || mean p) = T^2 (H(mean p) - mean H(p_i)), p_i = softmax(z_i / T).

    Args:
        logits: of the teacher, in blocks of float `[n, C]`.
        temperature: T > 0.
    """
    negative_entropy, probabilities, count = 0.0, np.zeros(1), 0
    for block in logits:
        log_p = _log_softmax(np.asarray(block, np.float64) / temperature)
        negative_entropy += float(np.sum(np.exp(log_p) * log_p))
        probabilities = probabilities + np.exp(log_p).sum(axis=0)
        count += len(log_p)
    mean = probabilities / count
    of_mean = -np.sum(mean * np.log(np.maximum(mean, np.finfo(np.float64).tiny)))
    return float(temperature**2 * max(of_mean + negative_entropy / count, 0.0))


def _log_softmax(values: np.ndarray) -> np.ndarray:
    shifted = values - values.max(axis=1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))


def build_total_loss(settings: BalanceSettings, inputs: BalanceInputs) -> TotalLoss:
    """The total loss that --balance names.

    Raises:
        UserError: where what is registered builds something else.
    """
    total_loss = BALANCES[settings.balance](settings, inputs)
    if not isinstance(total_loss, TotalLoss):
        raise UserError(
            f"balance {BALANCES.title(settings.balance)} gave {type(total_loss).__name__}; asked "
            "is a candle_tf.methods.balance.TotalLoss, or an object of a class derived from it."
        )
    return total_loss


def build_adversarial(settings: BalanceSettings, inputs: BalanceInputs) -> TotalLoss:
    """The paper's total loss, and an entropy in units of the baseline's KL loss."""
    kl = _of_uniform(settings, inputs)
    return TotalLoss(entropy_weight=settings.balance_entropy * kl)


def build_relative(settings: BalanceSettings, inputs: BalanceInputs) -> TotalLoss:
    """Both losses relative to the baseline's, and an entropy."""
    kl = _of_uniform(settings, inputs)
    # Of one class the KL loss is always 0.
    return TotalLoss(kl or 1.0, inputs.feature_reference, settings.balance_entropy)


def _of_uniform(settings: BalanceSettings, inputs: BalanceInputs) -> float:
    loss = LOGIT_LOSSES[settings.logit_loss]
    return float(loss.of_uniform(inputs.teacher_logits(), settings.temperature))


def build_plain(settings: BalanceSettings, inputs: BalanceInputs) -> TotalLoss:
    """The paper's total loss alone."""
    del settings, inputs
    return TotalLoss()

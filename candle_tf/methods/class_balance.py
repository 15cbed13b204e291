"""An adversary that sees the class: lambda of each example, from noise and its class's log count.

    lambda_i = sigmoid(logit(lambda_0) + phi(noise, s_y))
    s_c = (log n_c - log n_min) / (log n_max - log n_min)                                in [0, 1]
    k_i = (KL_i - K_f) / (K_0 - K_f),  f_i = (FS_i - F_f) / (F_0 - F_f)
    J   = sum_i w_i [lambda_i k_i + (1 - lambda_i) f_i - tau KL(lambda_i || lambda_0)] / sum_i w_i

K_0 and F_0 are the losses of the best constant prediction. K_f and F_f are 0, or what a training
with a fixed lambda ends at (--balance_floors): k and f are then the excess losses of DoReMi (Xie et
al. 2023), and a loss that no student can lower further has no weight for being large.

The student minimizes J, phi maximizes it. J is strongly concave in each lambda, so each class has
one best lambda, lambda_c = sigmoid(logit(lambda_0) + (E[k | c] - E[f | c]) / tau): neither loss is
ever left out. What remains for the student is a smooth Tchebycheff scalarization of each class (Lin
et al., ICML 2024): tau to infinity is a fixed lambda_0, tau to 0 the paper's total loss. Weights
w_i = p_y^(-1/2), p_c the probability of class c in the epoch, by its sampler: n_c^(-1/2) under
"instance", 1 under "class_balanced", n_c^(-1/4) under "square_root"; "progressive" goes from the
first to the second, and deferred samplers have the first until they begin.
"""

from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import tensorflow as tf

from candle_tf.data.samplers import class_probabilities, sampler_at
from candle_tf.distribute import mean_over_replicas
from candle_tf.errors import UserError
from candle_tf.methods.balance import (
    HIDDEN,
    NOISE_SIZE,
    BalanceInputs,
    TotalLoss,
    draw_noise,
    hidden_layer,
)
from candle_tf.methods.balance_controls import (
    ClosedFormBalancer,
    ReplayedClassBalance,
    permute_sizes,
    third_of,
)
from candle_tf.methods.registry import LOGIT_LOSSES
from candle_tf.methods.settings import BalanceSettings
from candle_tf.methods.trainer import TOTAL_LOSS

# s of the rarest, a medium and the most frequent class, for which lambda is logged; the losses are
# logged of the images of classes nearest to each.
_LOGGED = {"rare": 0.0, "medium": 0.5, "frequent": 1.0}
# Smaller losses of the best constant prediction, as of a single class, are no unit to measure in.
_SMALLEST_UNIT = 1e-12


@tf.keras.utils.register_keras_serializable("candle_tf")
class ClassBalancer(tf.keras.layers.Layer):
    """phi: noise of a step and size s of a class -> what is added to logit(lambda_0).

    Its last layer starts at zero, so every lambda starts at lambda_0. It is built by its
    constructor.

    Args:
        seed: of the initial weights and of the noise.
        name: the Keras name.
    """

    def __init__(self, seed: int = 0, name: str = "class_balancer") -> None:
        super().__init__(name=name)
        self._seed = seed
        self._hidden = hidden_layer(seed)
        self._last = tf.keras.layers.Dense(1, kernel_initializer="zeros")
        self.build([])

    def build(self, input_shape: tf.TensorShape) -> None:
        """Makes the variables, of a fixed size."""
        self._hidden.build([1, NOISE_SIZE + 1])
        self._last.build([1, HIDDEN])
        super().build(input_shape)

    def call(self, step: tf.Tensor, sizes: tf.Tensor) -> tf.Tensor:
        """Float32 `[B]`, for the noise of `step` (int scalar) and s float32 `[B]`."""
        noise = draw_noise(self._seed, step)
        column = sizes[:, tf.newaxis]
        inputs = tf.concat([tf.ones_like(column) * noise, column], axis=1)
        return self._last(self._hidden(inputs))[:, 0]


@dataclass(frozen=True, eq=False)
class ClassTotalLoss(TotalLoss):
    """J of the module's head. `kl_reference` and `fs_reference` are K_0 and F_0.

    Attributes:
        kl_floor: K_f, below K_0.
        fs_floor: F_f, below F_0.
        tau: of the barrier, above 0.
        prior: lambda_0, in (0, 1).
        sizes: s of each class, float `[C]`.
        weights: w of each class in each epoch, float `[E, C]`, above 0.
        steps_in_epoch: steps of one epoch.
        closed_form: whether lambda is the best one of each third of class sizes, by its formula.
    """

    learning_rate_factor: ClassVar[float] = 5.0
    lambda_columns: ClassVar[tuple[str, ...]] = tuple(f"lambda_{name}" for name in _LOGGED)

    kl_floor: float = 0.0
    fs_floor: float = 0.0
    tau: float = 0.25
    prior: float = 0.5
    sizes: np.ndarray = field(default_factory=lambda: np.zeros(1))
    weights: np.ndarray = field(default_factory=lambda: np.ones([1, 1]))
    steps_in_epoch: int = 1
    closed_form: bool = False

    def build_balancer(self, seed: int) -> ClassBalancer | ClosedFormBalancer:
        return ClosedFormBalancer(self.tau) if self.closed_form else ClassBalancer(seed)

    def build_replay(self, lambdas: np.ndarray, steps: int) -> ReplayedClassBalance:
        return ReplayedClassBalance(lambdas, steps, self.prior)

    def balance(
        self,
        balancer: Any,
        kl: tf.Tensor,
        fs: tf.Tensor,
        labels: tf.Tensor,
        step: tf.Tensor,
        labelled: tf.Tensor | None = None,
    ) -> dict[str, tf.Tensor]:
        """As `TotalLoss.balance`; "lambda" is the mean, and lambda of three sizes is added.

        Of the images of rare, medium and frequent classes (thirds of the range of s) there are sums
        over the batch's size B: "share_<group>" of 1, "lambda_sum_<group>" of lambda and
        "excess_<group>" of k - f. `reporting.adversary` compares lambda with the best one by them.
        Examples without labels have lambda_0, and the mean weight of those with labels.
        """
        sizes = tf.concat(
            [tf.gather(tf.constant(self.sizes, tf.float32), labels), list(_LOGGED.values())], axis=0
        )
        logits = self._prior_logit + balancer(step, sizes)
        logged = len(_LOGGED)
        weights = tf.gather(self._weights_of_epoch(step), labels)
        of_examples = logits[:-logged]
        if labelled is not None:
            of_examples = tf.where(labelled, of_examples, self._prior_logit)
            share = tf.cast(labelled, tf.float32)
            mean = mean_over_replicas(tf.reduce_sum(weights * share)) / tf.reduce_sum(share)
            weights = tf.where(labelled, weights, mean)
        each = self.of_examples(kl, fs, of_examples)
        lambdas = tf.sigmoid(logits)
        has_label = tf.ones_like(kl) if labelled is None else tf.cast(labelled, kl.dtype)
        sums = self._sums(kl, fs, sizes[:-logged], lambdas[:-logged], has_label)
        if isinstance(balancer, ClosedFormBalancer):
            balancer.observe(
                *(tf.stack([sums[f"{kind}_{name}"] for name in _LOGGED])
                  for kind in ("share", "excess"))
            )  # fmt: skip
        return {
            TOTAL_LOSS: tf.reduce_sum(weights * each) / mean_over_replicas(tf.reduce_sum(weights)),
            "kl": tf.reduce_mean(kl),
            "fs": tf.reduce_mean(fs),
            "lambda": tf.reduce_mean(tf.sigmoid(of_examples)),
            **{f"lambda_{name}": lambdas[i - logged] for i, name in enumerate(_LOGGED)},
            **sums,
        }

    def _weights_of_epoch(self, step: tf.Tensor) -> tf.Tensor:
        """w of each class, float32 `[C]`, in the epoch of a step."""
        epoch = tf.minimum(tf.cast(step, tf.int64) // self.steps_in_epoch, len(self.weights) - 1)
        return tf.constant(self.weights, tf.float32)[epoch]

    def _sums(
        self,
        kl: tf.Tensor,
        fs: tf.Tensor,
        sizes: tf.Tensor,
        lambdas: tf.Tensor,
        has_label: tf.Tensor,
    ) -> dict[str, tf.Tensor]:
        """What `balance` adds of each group, each float `[B]` given."""
        k, f = self._excess(kl, fs)
        third = third_of(sizes)
        found = {}
        for place, name in enumerate(_LOGGED):
            inside = tf.cast(third == place, kl.dtype) * has_label
            found[f"share_{name}"] = tf.reduce_mean(inside)
            found[f"lambda_sum_{name}"] = tf.reduce_mean(inside * lambdas)
            found[f"excess_{name}"] = tf.reduce_mean(inside * (k - f))
        return found

    def of_examples(self, kl: tf.Tensor, fs: tf.Tensor, logits: tf.Tensor) -> tf.Tensor:
        """lambda k + (1 - lambda) f - tau KL(lambda || lambda_0), float `[B]`.

        Args:
            kl, fs: losses, float `[B]`.
            logits: logit(lambda), float `[B]`; any finite value gives a finite loss.
        """
        lam, rest = tf.sigmoid(logits), tf.sigmoid(-logits)
        k, f = self._excess(kl, fs)
        balanced = lam * k + rest * f
        of_kl = tf.math.log_sigmoid(logits) - np.log(self.prior)
        of_fs = tf.math.log_sigmoid(-logits) - np.log1p(-self.prior)
        return balanced - self.tau * (lam * of_kl + rest * of_fs)

    def _excess(self, kl: tf.Tensor, fs: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """k and f, float `[B]`."""
        k = (kl - self.kl_floor) / (self.kl_reference - self.kl_floor)
        return k, (fs - self.fs_floor) / (self.fs_reference - self.fs_floor)

    @property
    def _prior_logit(self) -> float:
        return float(np.log(self.prior) - np.log1p(-self.prior))


def build_class_adversarial(settings: BalanceSettings, inputs: BalanceInputs) -> ClassTotalLoss:
    """J in units of the losses of the best constant prediction.

    Raises:
        UserError: for floors that are no lower than these losses.
    """
    loss = LOGIT_LOSSES[settings.logit_loss]
    kl = loss.of_mean(inputs.teacher_logits(), settings.temperature)
    kl, fs = (each if each > _SMALLEST_UNIT else 1.0 for each in (kl, inputs.feature_of_mean))
    _check_floors(settings, inputs.floors, (kl, fs))
    sizes = class_sizes(inputs.counts)
    if settings.balance_permute_sizes:
        sizes = permute_sizes(sizes, inputs.seed)
    return ClassTotalLoss(
        kl_reference=kl,
        fs_reference=fs,
        kl_floor=inputs.floors[0],
        fs_floor=inputs.floors[1],
        tau=settings.balance_tau,
        prior=settings.balance_prior,
        sizes=sizes,
        weights=np.stack([_class_weights(inputs, epoch) for epoch in range(inputs.epochs)]),
        steps_in_epoch=inputs.steps_in_epoch,
        closed_form=settings.balance_closed_form,
    )


def _class_weights(inputs: BalanceInputs, epoch: int) -> np.ndarray:
    """w of each class in an epoch, float64 `[C]`. Only their ratios matter."""
    sampler, epochs, start = inputs.sampler, inputs.epochs, inputs.sampler_start
    if sampler_at(sampler, epoch, epochs, start) == "instance":
        # To the last bit what they were before there were other samplers.
        return np.asarray(np.maximum(inputs.counts, 1.0) ** -0.5)
    probabilities = class_probabilities(sampler, inputs.counts, epoch, epochs, start)
    relative = probabilities / probabilities.max()
    return np.where(relative > 0, relative, 1.0) ** -0.5


def _check_floors(
    settings: BalanceSettings, floors: tuple[float, float], references: tuple[float, float]
) -> None:
    for name, floor, reference in zip(("KL", "feature"), floors, references, strict=True):
        if floor >= reference:
            raise UserError(
                f"--balance_floors={settings.balance_floors}: its {name} loss ends at {floor:.4g}, "
                f"and that of a student that learns nothing is {reference:.4g} here. Give a run "
                "that has learned, with the same losses on the same images, or none."
            )


def class_sizes(counts: np.ndarray) -> np.ndarray:
    """s of each class, float64 `[C]`: 0 of the rarest, 1 of the most frequent, 0 if all are equal.

    Args:
        counts: training images of each class, int `[C]`.
    """
    logs = np.log(np.maximum(np.asarray(counts, np.float64), 1.0))
    spread = logs.max() - logs.min()
    return (logs - logs.min()) / spread if spread else np.zeros_like(logs)

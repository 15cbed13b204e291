"""The second distillation loss: how near the projected student features are to the teacher's.

    loss = FEATURE_LOSSES["r2"](settings, TeacherFeatures(blocks, source_classifier))
    projector = loss.build_projector(student, seed=0)
    each = loss(projector(student_features), teacher_features)               # float [B]

To add one, write a class like those here and give its builder a line in `registry.FEATURE_LOSSES`.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods import losses
from candle_tf.methods.balance import mean_prediction_loss
from candle_tf.methods.pretraining import FeatureProjector
from candle_tf.methods.registry import FEATURE_LOSSES
from candle_tf.methods.settings import BalanceSettings

# Of a length, as TensorFlow's `l2_normalize` has it.
_SMALLEST_SQUARE = 1e-12


@dataclass(frozen=True)
class TeacherFeatures:
    """What a feature loss is built from.

    Attributes:
        blocks: gives the teacher's features of training images, in blocks of float `[n, d_T]`;
            may be called again.
        source_classifier: gives kernel float32 `[d_T, C_0]` and bias float32 `[C_0]` of the source
            classes; called only where they are needed.
    """

    blocks: Callable[[], Iterable[np.ndarray]]
    source_classifier: Callable[[], tuple[np.ndarray, np.ndarray]]


class FeatureLoss(Protocol):
    """A loss between projected student features and the teacher's."""

    @property
    def reference(self) -> float:
        """Its value for a student whose features tell images not apart, above 0."""

    @property
    def of_mean(self) -> float:
        """Its value for the best constant prediction, at least 0."""

    def build_projector(self, student: tf.keras.Model, seed: int = 0) -> tf.keras.layers.Layer:
        """The built layer from the student's "features" `[B, d_S]` to `[B, d_T]`."""

    def __call__(self, projected: tf.Tensor, teacher_features: tf.Tensor) -> tf.Tensor:
        """Loss of each example, float `[B]`, of features float `[B, d_T]`."""


@dataclass(frozen=True, eq=False)
class CosineLoss:
    """1 - cos(p(e_S), e_T - mean), in [0, 2] (CANDLE's L_FS, with the mean subtracted).

    Attributes:
        mean: subtracted from the teacher's features, float `[d_T]`; zeros are the paper's.
        of_mean: the loss of the best constant prediction. Centred features have no direction in
            common, and it is as good as that of a vector without any: 1.
    """

    mean: np.ndarray
    of_mean: float = 1.0

    @property
    def reference(self) -> float:
        return 1.0

    def build_projector(self, student: tf.keras.Model, seed: int = 0) -> tf.keras.layers.Layer:
        return build_projector(student, len(self.mean), seed)

    def __call__(self, projected: tf.Tensor, teacher_features: tf.Tensor) -> tf.Tensor:
        centred = teacher_features - tf.constant(self.mean, tf.float32)
        return losses.feature_distance(projected, centred)


@dataclass(frozen=True, eq=False)
class SquaredErrorLoss:
    """1 - R^2 = |p(e_S) - e_T|^2 / E |e_T - mean|^2: 1 for the mean, 0 for equal features.

    Attributes:
        mean: of the teacher's features, float `[d_T]`.
        variance: E |e_T - mean|^2, above 0.
    """

    mean: np.ndarray
    variance: float

    @property
    def reference(self) -> float:
        return 1.0

    @property
    def of_mean(self) -> float:
        return 1.0

    def build_projector(self, student: tf.keras.Model, seed: int = 0) -> tf.keras.layers.Layer:
        return _affine_projector(student, self.mean, self.variance, seed)

    def __call__(self, projected: tf.Tensor, teacher_features: tf.Tensor) -> tf.Tensor:
        squares = tf.math.squared_difference(projected, teacher_features)
        return tf.reduce_sum(squares, axis=-1) / self.variance


@dataclass(frozen=True, eq=False)
class SourceClassLoss:
    """T^2 KL(softmax(g(e_T) / T) || softmax(g(p(e_S)) / T)), g the frozen source classifier.

    The loss of `pretraining`, on labelled images. Where the teacher brings no classifier, g gives
    the posterior of k-means prototypes of its features, as SEED (Fang et al., ICLR 2021) compares
    similarities to anchors.

    Attributes:
        mean: of the teacher's features, float `[d_T]`.
        variance: E |e_T - mean|^2, above 0.
        kernel, bias: g, float32 `[d_T, C_0]` and `[C_0]`.
        temperature: T, above 0.
        reference: the loss of the best constant prediction.
    """

    mean: np.ndarray
    variance: float
    kernel: np.ndarray
    bias: np.ndarray
    temperature: float
    reference: float

    @property
    def of_mean(self) -> float:
        return self.reference

    def build_projector(self, student: tf.keras.Model, seed: int = 0) -> tf.keras.layers.Layer:
        return _affine_projector(student, self.mean, self.variance, seed)

    def __call__(self, projected: tf.Tensor, teacher_features: tf.Tensor) -> tf.Tensor:
        teacher, student = self._logits(teacher_features), self._logits(projected)
        return losses.kl_divergence(teacher, student, self.temperature)

    def _logits(self, features: tf.Tensor) -> tf.Tensor:
        return tf.matmul(features, tf.constant(self.kernel)) + tf.constant(self.bias)


def build_feature_loss(settings: BalanceSettings, teacher: TeacherFeatures) -> FeatureLoss:
    """The loss that --feature_loss names.

    Raises:
        UserError: where what is registered builds something else.
    """
    loss: FeatureLoss = FEATURE_LOSSES[settings.feature_loss](settings, teacher)
    parts = ("reference", "of_mean", "build_projector")
    missing = [part for part in parts if not hasattr(loss, part)]
    if missing or not callable(loss):
        raise UserError(
            f"feature loss {FEATURE_LOSSES.title(settings.feature_loss)} gave "
            f"{type(loss).__name__}, which "
            f"{'has no ' + ', '.join(missing) if missing else 'cannot be called'}; asked is an "
            "object as candle_tf.methods.feature_losses.FeatureLoss."
        )
    return loss


def build_cosine(settings: BalanceSettings, teacher: TeacherFeatures) -> CosineLoss:
    """The cosine, centred unless --nocenter_features."""
    mean = mean_features(teacher.blocks())
    if settings.center_features:
        return CosineLoss(mean)
    return CosineLoss(np.zeros_like(mean), best_constant_cosine_loss(teacher.blocks()))


def build_r2(settings: BalanceSettings, teacher: TeacherFeatures) -> SquaredErrorLoss:
    """1 - R^2."""
    del settings
    return SquaredErrorLoss(*_moments(teacher))


def build_source_kl(settings: BalanceSettings, teacher: TeacherFeatures) -> SourceClassLoss:
    """KL in the space of the teacher's source classes."""
    mean, variance = _moments(teacher)
    kernel, bias = teacher.source_classifier()
    temperature = settings.source_temperature
    logits = (block.astype(np.float32) @ kernel + bias for block in teacher.blocks())
    reference = mean_prediction_loss(logits, temperature)
    return SourceClassLoss(mean, variance, kernel, bias, temperature, reference)


def mean_features(blocks: Iterable[np.ndarray]) -> np.ndarray:
    """The mean of the teacher's features, float64 `[d_T]`, of blocks float `[n, d_T]`."""
    sums = [(block.sum(axis=0, dtype=np.float64), len(block)) for block in blocks]
    return np.sum([total for total, _ in sums], axis=0) / sum(count for _, count in sums)


def best_constant_cosine_loss(blocks: Iterable[np.ndarray]) -> float:
    """The smallest mean of 1 - cos(v, e_i) over all vectors v: 1 - |mean of e_i / |e_i||.

    v is the mean of the directions. Features of 0 have no cosine, as in `losses.feature_distance`.

    Args:
        blocks: features e of the teacher, float `[n, d_T]`.
    """

    def directions(block: np.ndarray) -> np.ndarray:
        values = block.astype(np.float64)
        squares = np.sum(values**2, axis=1, keepdims=True)
        return values / np.sqrt(np.maximum(squares, _SMALLEST_SQUARE))

    mean = mean_features(directions(block) for block in blocks)
    return max(0.0, 1.0 - float(np.linalg.norm(mean)))


def build_projector(
    student: tf.keras.Model, feature_size: int, seed: int = 0
) -> tf.keras.layers.Dense:
    """A dense layer, built, from the student's features `[B, d_S]` to `[B, d_T]`.

    Args:
        student: a model with the output "features".
        feature_size: d_T.
        seed: of the initial weights.
    """
    projector = tf.keras.layers.Dense(
        feature_size,
        kernel_initializer=tf.keras.initializers.GlorotUniform(seed),
        name="projector",
    )
    projector.build(student.output["features"].shape)
    return projector


def _affine_projector(
    student: tf.keras.Model, mean: np.ndarray, variance: float, seed: int
) -> FeatureProjector:
    projector = FeatureProjector(mean, variance, seed)
    projector.build(student.output["features"].shape)
    return projector


def _moments(teacher: TeacherFeatures) -> tuple[np.ndarray, float]:
    """Mean `[d_T]` and E |e - mean|^2 of the teacher's features; 1 where all are equal."""
    mean = mean_features(teacher.blocks())
    squares, count = 0.0, 0
    for block in teacher.blocks():
        squares += float(np.sum((block.astype(np.float64) - mean) ** 2))
        count += len(block)
    return mean, squares / count or 1.0

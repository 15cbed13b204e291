"""The first distillation loss: what the student's logits have to share with the teacher's.

    loss = LOGIT_LOSSES["standardized"]
    each = loss(teacher_logits, student_logits, temperature=2.0)                  # float [B]

To add one, write a class like those here and give an object of it a line in
`registry.LOGIT_LOSSES`.
"""

from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import tensorflow as tf
from scipy.special import softmax

from candle_tf.methods import losses
from candle_tf.methods.balance import mean_prediction_loss, uniform_prediction_losses

# As published: of the standardized KL loss (weight), and of DIST (beta and gamma).
_STANDARDIZED_WEIGHT = 9.0
_RELATION_WEIGHT = 2.0
_SMALL = 1e-7


class LogitLoss(Protocol):
    """A loss between logits, and what a student that tells no images apart has of it.

    One for which the teacher's highest logits and the probability of the rest together, under
    softmax(z / T), do not do (--teacher_top_k) has a text `needs_all_logits` as well: what it is
    computed of, for the message by which the two are refused.
    """

    def __call__(
        self, teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float
    ) -> tf.Tensor:
        """Float `[B]`, of logits float `[B, C]` and T > 0."""

    def of_uniform(self, teacher_logits: Iterable[np.ndarray], temperature: float) -> float:
        """Its value for equal logits of all classes; of blocks of float `[n, C]`."""

    def of_mean(self, teacher_logits: Iterable[np.ndarray], temperature: float) -> float:
        """Its value for the best constant prediction; of blocks of float `[n, C]`."""


class KullbackLeibler:
    """T^2 KL(softmax(z_T / T) || softmax(z_S / T)) (Hinton et al. 2015)."""

    def __call__(
        self, teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float
    ) -> tf.Tensor:
        return losses.kl_divergence(teacher_logits, student_logits, temperature)

    def of_uniform(self, teacher_logits: Iterable[np.ndarray], temperature: float) -> float:
        return uniform_prediction_losses(teacher_logits, temperature)[0]

    def of_mean(self, teacher_logits: Iterable[np.ndarray], temperature: float) -> float:
        return mean_prediction_loss(teacher_logits, temperature)


class StandardizedKl:
    """9 T^2 KL of logits that have mean 0 and variance 1 in each example.

    The student need not reach the size of the teacher's logits, so its confidences mean nothing.
    Source: Sun et al., "Logit Standardization in Knowledge Distillation" (CVPR 2024).
    """

    needs_all_logits = "logits relative to the mean and variance of all of them"

    def __call__(
        self, teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float
    ) -> tf.Tensor:
        teacher, student = _standardize(teacher_logits), _standardize(student_logits)
        return _STANDARDIZED_WEIGHT * losses.kl_divergence(teacher, student, temperature)

    def of_uniform(self, teacher_logits: Iterable[np.ndarray], temperature: float) -> float:
        loss, _ = uniform_prediction_losses(_standardize_blocks(teacher_logits), temperature)
        return _STANDARDIZED_WEIGHT * loss

    def of_mean(self, teacher_logits: Iterable[np.ndarray], temperature: float) -> float:
        loss = mean_prediction_loss(_standardize_blocks(teacher_logits), temperature)
        return _STANDARDIZED_WEIGHT * loss


class RelationLoss:
    """2 (1 - rho of rows) + 2 (1 - rho of columns) of softmax(z / T), rho Pearson's correlation.

    Rows: an example's classes. Columns: a class's examples in the batch, averaged over classes and
    the same for all examples; it wants batches of 128 or more. Source: DIST (Huang et al., NeurIPS
    2022), with beta = gamma = 2.
    """

    needs_all_logits = "correlations over all classes and of each class"

    def __call__(
        self, teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float
    ) -> tf.Tensor:
        teacher = tf.nn.softmax(teacher_logits / temperature)
        student = tf.nn.softmax(student_logits / temperature)
        rows = 1.0 - _correlation(teacher, student, axis=1)
        columns = 1.0 - tf.reduce_mean(_correlation(teacher, student, axis=0))
        return _RELATION_WEIGHT * (rows + columns)

    def of_uniform(self, teacher_logits: Iterable[np.ndarray], temperature: float) -> float:
        del teacher_logits, temperature
        return 2.0 * _RELATION_WEIGHT

    def of_mean(self, teacher_logits: Iterable[np.ndarray], temperature: float) -> float:
        """A constant has no correlation along columns. Along rows the best one is the mean of the
        probabilities with mean 0 and length 1 in each example, whose length is its correlation."""
        total, count = np.zeros(1), 0
        for block in teacher_logits:
            probabilities = softmax(block.astype(np.float64) / temperature, axis=1)
            centred = probabilities - probabilities.mean(axis=1, keepdims=True)
            squares = np.sum(centred**2, axis=1, keepdims=True)
            unit = centred / np.sqrt(np.maximum(squares, _SMALL**2))
            total = total + unit.sum(axis=0)
            count += len(block)
        return _RELATION_WEIGHT * (2.0 - float(np.linalg.norm(total / count)))


KL, STANDARDIZED, RELATION = KullbackLeibler(), StandardizedKl(), RelationLoss()


def _standardize(logits: tf.Tensor) -> tf.Tensor:
    centred = logits - tf.reduce_mean(logits, axis=1, keepdims=True)
    variance = tf.reduce_mean(centred**2, axis=1, keepdims=True)
    return centred * tf.math.rsqrt(variance + _SMALL)


def _standardize_blocks(blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
    for block in blocks:
        centred = block.astype(np.float64) - block.astype(np.float64).mean(axis=1, keepdims=True)
        yield centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + _SMALL)


def _correlation(one: tf.Tensor, other: tf.Tensor, axis: int) -> tf.Tensor:
    """Pearson's, along an axis; 0 with a finite gradient where one does not vary."""
    ours = one - tf.reduce_mean(one, axis=axis, keepdims=True)
    theirs = other - tf.reduce_mean(other, axis=axis, keepdims=True)
    ours = tf.math.l2_normalize(ours, axis=axis, epsilon=_SMALL**2)
    theirs = tf.math.l2_normalize(theirs, axis=axis, epsilon=_SMALL**2)
    return tf.reduce_sum(ours * theirs, axis=axis)

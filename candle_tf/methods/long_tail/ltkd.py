"""LTKD: "Distilling Balanced Knowledge from a Biased Teacher" (Kim, CVPR 2026, arXiv 2506.18496).

KL divergence is a sum: that between the groups' probabilities, and those within each group, weighed
by the teacher's probability of the group. LTKD rebalances the first and weighs the second evenly.
Its code is not published: how the batch rebalances the groups is our reading of its text.
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from candle_tf.data.splits.longtail import shot_groups
from candle_tf.distribute import mean_over_replicas
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.losses import cross_entropy
from candle_tf.methods.method import DistillationLosses, DistillationMethod

_TINY = 1e-12


def class_groups(counts: np.ndarray) -> list[np.ndarray]:
    """Head, medium and tail classes: shot groups, or thirds by count where all are of one group.

    Args:
        counts: int `[C]`.

    Returns:
        int `[C_g]` of each group; none is empty.
    """
    groups = [members for members in shot_groups(counts).values() if len(members)]
    if len(groups) == 1:
        order = np.argsort(-np.asarray(counts), kind="stable")
        groups = [members for members in np.array_split(order, 3) if len(members)]
    return groups


def ltkd_divergence(
    teacher_logits: tf.Tensor,
    student_logits: tf.Tensor,
    groups: Sequence[np.ndarray],
    temperature: float,
    cross_weight: float,
    within_weight: float,
) -> tf.Tensor:
    """T^2 (alpha KL(q || s) + beta mean over groups of KL(teacher in group || student in group)).

    s are the student's probabilities of the groups; q the teacher's, divided by their means over
    the batch and normalized, so that over the batch no group is preferred.

    Args:
        teacher_logits: float `[B, C]`.
        student_logits: float `[B, C]`.
        groups: classes of each group, a partition of 0..C-1.
        temperature: T > 0.
        cross_weight: alpha.
        within_weight: beta.

    Returns:
        float `[B]`, at least 0.
    """
    teacher = tf.nn.log_softmax(teacher_logits / temperature)
    student = tf.nn.log_softmax(student_logits / temperature)
    teacher_parts = [tf.gather(teacher, members, axis=1) for members in groups]
    student_parts = [tf.gather(student, members, axis=1) for members in groups]
    teacher_masses = _log_masses(teacher_parts)
    student_masses = _log_masses(student_parts)
    batch = mean_over_replicas(tf.reduce_mean(tf.exp(teacher_masses), axis=0, keepdims=True))
    balanced = tf.nn.log_softmax(teacher_masses - tf.math.log(batch + _TINY))
    cross = tf.reduce_sum(tf.exp(balanced) * (balanced - student_masses), axis=1)
    within = [
        _divergence(t - teacher_masses[:, g : g + 1], s - student_masses[:, g : g + 1])
        for g, (t, s) in enumerate(zip(teacher_parts, student_parts, strict=True))
    ]
    each = cross_weight * cross + within_weight * tf.add_n(within) / len(groups)
    return temperature**2 * each


def _log_masses(parts: Sequence[tf.Tensor]) -> tf.Tensor:
    """Log probability of each group, `[B, G]`, from log probabilities of its classes."""
    return tf.stack([tf.reduce_logsumexp(part, axis=1) for part in parts], axis=1)


def _divergence(teacher: tf.Tensor, student: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=1)


def build_losses(
    settings: BaselineSettings, temperature: float, counts: np.ndarray
) -> DistillationLosses:
    """Cross-entropy of the labels, and both divergences."""
    groups = class_groups(counts)
    return DistillationLosses(
        cross_entropy,
        lambda teacher, student: ltkd_divergence(
            teacher,
            student,
            groups,
            temperature,
            settings.ltkd_cross_weight,
            settings.ltkd_within_weight,
        ),
        settings.distillation_label_weight,
    )


METHOD = DistillationMethod(
    build_losses,
    needs_all_logits=lambda settings: "groups of classes",  # noqa: ARG005
)

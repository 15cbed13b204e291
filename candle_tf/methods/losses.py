"""Loss functions, each giving one value per example; the mean over the batch is the caller's.

Long-tailed classification: cross-entropy, balanced softmax, logit adjustment, label-aware
smoothing. Distillation: KL divergence at a temperature, and feature similarity.
"""

import numpy as np
import tensorflow as tf


def cross_entropy(
    logits: tf.Tensor,
    labels: tf.Tensor,
    counts: np.ndarray | None = None,  # noqa: ARG001
) -> tf.Tensor:
    """-log softmax(z)_y.

    Args:
        logits: float `[B, C]`.
        labels: int `[B]`, in [0, C).
        counts: without effect; a method's loss is called with them.

    Returns:
        float `[B]`.
    """
    return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)


def logit_adjustment(
    logits: tf.Tensor, labels: tf.Tensor, counts: np.ndarray, tau: float = 1.0
) -> tf.Tensor:
    """Cross-entropy of z + tau * log(prior), prior_c = n_c / sum(n) (Menon et al., ICLR 2021).

    Args:
        logits: float `[B, C]`.
        labels: int `[B]`.
        counts: training images of each class, int `[C]`, at least 1.
        tau: strength; 0 is plain cross-entropy.

    Returns:
        float `[B]`.
    """
    prior = np.asarray(counts, np.float64) / np.sum(counts)
    return cross_entropy(logits + tf.constant(tau * np.log(prior), logits.dtype), labels)


def balanced_softmax(logits: tf.Tensor, labels: tf.Tensor, counts: np.ndarray) -> tf.Tensor:
    """Cross-entropy under n_c * exp(z_c), which is logit adjustment at tau = 1.

    Shapes as in `logit_adjustment`. Source: Ren et al., NeurIPS 2020, eq. 4.
    """
    return logit_adjustment(logits, labels, counts, tau=1.0)


def smoothing_rates(counts: np.ndarray, head: float, tail: float) -> np.ndarray:
    """Label smoothing of each class, from `tail` at the rarest to `head` at the most frequent.

    eps_c = tail + (head - tail) * sin(pi/2 * (n_c - n_min) / (n_max - n_min)), the concave form of
    MiSLAS (Zhong et al., CVPR 2021, eq. 6). Where all classes are equal, `head`.

    Args:
        counts: int `[C]`.
        head: rate at the largest count, in [0, 1).
        tail: rate at the smallest count, in [0, 1).

    Returns:
        float64 `[C]`.
    """
    counts = np.asarray(counts, np.float64)
    spread = counts.max() - counts.min()
    if spread == 0:
        return np.full(counts.shape, head)
    return tail + (head - tail) * np.sin(np.pi / 2 * (counts - counts.min()) / spread)


def label_aware_smoothing(logits: tf.Tensor, labels: tf.Tensor, rates: np.ndarray) -> tf.Tensor:
    """Cross-entropy to 1 - eps_y on the label and eps_y / (C - 1) on every other class.

    Args:
        logits: float `[B, C]`.
        labels: int `[B]`.
        rates: eps of each class, float `[C]`.

    Returns:
        float `[B]`. Source: MiSLAS (Zhong et al., CVPR 2021), eq. 5.
    """
    log_probabilities = tf.nn.log_softmax(logits)
    classes = logits.shape[-1]
    eps = tf.gather(tf.constant(rates, logits.dtype), labels)
    of_label = tf.gather(log_probabilities, labels, batch_dims=1)
    of_others = tf.reduce_sum(log_probabilities, axis=-1) - of_label
    return -(1.0 - eps) * of_label - eps / (classes - 1) * of_others


def kl_divergence(
    teacher_logits: tf.Tensor, student_logits: tf.Tensor, temperature: float
) -> tf.Tensor:
    """T^2 * KL(softmax(z_T / T) || softmax(z_S / T)) (Hinton et al. 2015; CANDLE's L_KL).

    Args:
        teacher_logits: float `[B, C]`.
        student_logits: float `[B, C]`.
        temperature: T > 0.

    Returns:
        float `[B]`, at least 0.
    """
    teacher = tf.nn.log_softmax(teacher_logits / temperature)
    student = tf.nn.log_softmax(student_logits / temperature)
    return temperature**2 * tf.reduce_sum(tf.exp(teacher) * (teacher - student), axis=-1)


def feature_distance(projected: tf.Tensor, teacher_features: tf.Tensor) -> tf.Tensor:
    """1 - cos(p(e_S), e_T) (CANDLE's L_FS).

    Args:
        projected: student features brought to the teacher's size, float `[B, d_T]`.
        teacher_features: float `[B, d_T]`.

    Returns:
        float `[B]` in [0, 2].
    """
    ours = tf.math.l2_normalize(projected, axis=-1)
    theirs = tf.math.l2_normalize(teacher_features, axis=-1)
    return 1.0 - tf.reduce_sum(ours * theirs, axis=-1)

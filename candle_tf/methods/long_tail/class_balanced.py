"""Class-balanced loss: weights by the effective number of images (Cui et al., CVPR 2019)."""

import numpy as np
import tensorflow as tf

from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.losses import cross_entropy
from candle_tf.methods.method import LabelMethod, StepLoss


def effective_number_weights(counts: np.ndarray, beta: float) -> np.ndarray:
    """(1 - beta) / (1 - beta^n_c), scaled to a mean of 1 over the classes (sections 3 and 4).

    Args:
        counts: int `[C]`, at least 1.
        beta: in [0, 1); 0 weighs all classes alike, near 1 by 1 / n_c.

    Returns:
        float64 `[C]`.
    """
    # 1 - beta^n, exact also where beta^n is near 1.
    log_beta = np.log(beta) if beta else -np.inf
    inverse = -1.0 / np.expm1(np.asarray(counts, np.float64) * log_beta)
    return inverse / inverse.mean()


def class_balanced_loss(logits: tf.Tensor, labels: tf.Tensor, weights: np.ndarray) -> tf.Tensor:
    """w_y times the cross-entropy (section 4.1).

    Args:
        logits: float `[B, C]`.
        labels: int `[B]`.
        weights: of each class, float `[C]`.

    Returns:
        float `[B]`.
    """
    of_labels = tf.gather(tf.constant(weights, logits.dtype), labels)
    return of_labels * cross_entropy(logits, labels)


def build_loss(settings: BaselineSettings, counts: np.ndarray) -> StepLoss:
    """The loss with the weights of these counts."""
    weights = effective_number_weights(counts, settings.class_balanced_beta)
    return lambda z, y, progress: class_balanced_loss(z, y, weights)  # noqa: ARG005


METHOD = LabelMethod(
    build_loss, corrects_class_sizes=lambda settings: settings.class_balanced_beta != 0
)

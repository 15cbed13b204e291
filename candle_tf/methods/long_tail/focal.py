"""Focal loss: easy examples weigh less (Lin et al., "Focal Loss for Dense Object Detection")."""

import tensorflow as tf

from candle_tf.methods.losses import cross_entropy
from candle_tf.methods.method import LabelMethod


def focal_loss(logits: tf.Tensor, labels: tf.Tensor, gamma: float) -> tf.Tensor:
    """(1 - p_y)^gamma * -log p_y, p = softmax(z) (ICCV 2017, eq. 4, with softmax).

    Args:
        logits: float `[B, C]`.
        labels: int `[B]`.
        gamma: at least 0; 0 is cross-entropy.

    Returns:
        float `[B]`.
    """
    losses = cross_entropy(logits, labels)
    # The gradient of x^gamma at x = 0 is infinite for gamma < 1.
    misses = tf.maximum(-tf.math.expm1(-losses), 1e-7)
    return misses**gamma * losses


METHOD = LabelMethod(
    lambda settings, counts: lambda z, y, progress: focal_loss(z, y, settings.focal_gamma)  # noqa: ARG005
)

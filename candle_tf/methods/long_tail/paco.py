"""PaCo: parametric contrastive learning (Cui et al., ICCV 2021, arXiv 2107.12028).

Supervised contrastive learning with a momentum encoder favours frequent classes: their images have
more keys of the same class. Learned class centres, with a larger weight than a key, lessen this.
The centres are the student's classifier. The trainer is `contrastive.ContrastiveTrainer`.
"""

from functools import partial

import numpy as np
import tensorflow as tf

from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.method import Contrast, ContrastiveMethod

# A logit whose exponential is 0 in float32, and whose product with a weight of 0 is 0.
_NONE = -1e9


def paco_loss(
    logits: tf.Tensor,
    labels: tf.Tensor,
    cosines: tf.Tensor,
    other_labels: tf.Tensor,
    counted: tf.Tensor,
    *,
    counts: np.ndarray,
    temperature: float,
    alpha: float,
    beta: float,
) -> tf.Tensor:
    """-sum_j w_j log softmax(s)_j / sum_j w_j over all centres and all others that count.

    s of a centre c is z_c + log(n_c / sum(n)): its similarity to the features, rebalanced as in
    balanced softmax (the paper's section "Center Learning Rebalance"). s of another is its cosine /
    T. w is beta for the centre of y, alpha for others of class y, else 0 (the section "Rebalance in
    Contrastive Learning", where beta is 1). As in the authors' code, and not in the paper, weights
    are divided by their sum.

    Args:
        logits: z, float `[B, C]`.
        labels: y, int `[B]`.
        cosines: float `[B, A]` in [-1, 1].
        other_labels: int `[A]`.
        counted: which others are there for which example, bool `[B, A]`.
        counts: n, training images of each class, int `[C]`, at least 1.
        temperature: T above 0, of cosines alone.
        alpha: at least 0; with 0 others only push.
        beta: above 0.

    Returns:
        float `[B]`.
    """
    prior = np.asarray(counts, np.float64) / np.sum(counts)
    of_centres = logits + tf.constant(np.log(prior), logits.dtype)
    of_others = tf.where(counted, cosines / temperature, tf.constant(_NONE, cosines.dtype))
    log_probabilities = tf.nn.log_softmax(tf.concat([of_centres, of_others], axis=1))
    positive = counted & (labels[:, tf.newaxis] == other_labels[tf.newaxis, :])
    weights = tf.concat(
        [
            beta * tf.one_hot(labels, len(counts), dtype=logits.dtype),
            alpha * tf.cast(positive, logits.dtype),
        ],
        axis=1,
    )
    return -tf.reduce_sum(weights * log_probabilities, axis=1) / tf.reduce_sum(weights, axis=1)


def build(settings: BaselineSettings, counts: np.ndarray) -> Contrast:
    """The loss with the settings' temperature and weights, their queue and momentum."""
    loss = partial(
        paco_loss,
        counts=counts,
        temperature=settings.paco_temperature,
        alpha=settings.paco_alpha,
        beta=settings.paco_beta,
    )
    return Contrast(loss, settings.paco_queue, settings.paco_momentum)


METHOD = ContrastiveMethod(build, corrects_class_sizes=lambda settings: True)  # noqa: ARG005

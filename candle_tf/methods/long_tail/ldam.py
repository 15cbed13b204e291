"""LDAM-DRW: margins by class size, then deferred re-weighting (Cao et al., NeurIPS 2019)."""

import numpy as np
import tensorflow as tf

from candle_tf.methods.long_tail.class_balanced import effective_number_weights
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.long_tail.tau_normalization import normalize
from candle_tf.methods.losses import cross_entropy
from candle_tf.methods.method import Classifier, LabelMethod, StepLoss, Validation


def ldam_margins(counts: np.ndarray, largest: float) -> np.ndarray:
    """Margins proportional to n_c^(-1/4), the smallest class's at `largest` (section 3.2).

    Args:
        counts: int `[C]`, at least 1.
        largest: above 0.

    Returns:
        float64 `[C]`.
    """
    margins = np.asarray(counts, np.float64) ** -0.25
    return largest * margins / margins.max()


def ldam_loss(
    cosines: tf.Tensor, labels: tf.Tensor, margins: np.ndarray, scale: float
) -> tf.Tensor:
    """Cross-entropy of s * (z_c - margin_c [c = y]) (section 3.2; s as in the authors' code).

    Args:
        cosines: between features and class weights, float `[B, C]` in [-1, 1].
        labels: int `[B]`.
        margins: float `[C]`.
        scale: s above 0.

    Returns:
        float `[B]`.
    """
    subtracted = tf.one_hot(labels, len(margins), dtype=cosines.dtype)
    subtracted *= tf.constant(margins, cosines.dtype)
    return cross_entropy(scale * (cosines - subtracted), labels)


def build_loss(settings: BaselineSettings, counts: np.ndarray) -> StepLoss:
    """LDAM; after `deferred_fraction` of the training, with the weights of `class_balanced`.

    The weights have mean 1 over the training images: the authors' code divides by the sum of a
    batch's weights, so that the loss, and with it the step, does not shrink when they begin.
    """
    margins = ldam_margins(counts, settings.ldam_margin)
    weights = effective_number_weights(counts, settings.class_balanced_beta)
    weights = weights * np.sum(counts) / np.sum(counts * weights)

    def loss(cosines: tf.Tensor, labels: tf.Tensor, progress: tf.Tensor) -> tf.Tensor:
        late = tf.gather(tf.constant(weights, cosines.dtype), labels)
        now = tf.where(progress < settings.deferred_fraction, tf.ones_like(late), late)
        return now * ldam_loss(cosines, labels, margins, settings.ldam_scale)

    return loss


def export_cosines(
    settings: BaselineSettings,
    counts: np.ndarray,  # noqa: ARG001
    classifier: Classifier,
    validation: Validation,  # noqa: ARG001
) -> Classifier:
    """The linear classifier with the classes that the cosines give.

    The features' length, which cosines divide by, is the same for all classes: it changes
    confidences and no class, so the device need not compute it.
    """
    unit = normalize(classifier, 1.0)
    return Classifier(settings.ldam_scale * unit.kernel, unit.bias)


def validation_scale(settings: BaselineSettings) -> float:
    """s: cosines alone have a cross-entropy near log C, however sure the student is."""
    return settings.ldam_scale


METHOD = LabelMethod(
    build_loss,
    cosine=True,
    adjust=export_cosines,
    validation_scale=validation_scale,
    corrects_class_sizes=lambda settings: True,  # noqa: ARG005
)

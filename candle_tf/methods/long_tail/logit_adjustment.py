"""Logit adjustment, as a loss and post-hoc (Menon et al., ICLR 2021)."""

import numpy as np

from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.losses import cross_entropy, logit_adjustment
from candle_tf.methods.method import Classifier, LabelMethod, StepLoss, Validation


def build_loss(settings: BaselineSettings, counts: np.ndarray) -> StepLoss:
    """The adjusted cross-entropy (eq. 10) with --method_tau."""
    return lambda z, y, progress: logit_adjustment(z, y, counts, settings.method_tau)  # noqa: ARG005


def subtract_prior(
    settings: BaselineSettings,
    counts: np.ndarray,
    classifier: Classifier,
    validation: Validation,  # noqa: ARG001
) -> Classifier:
    """z_c - tau * log(prior_c), prior_c = n_c / sum(n) (eq. 9): a change of the bias alone."""
    prior = np.asarray(counts, np.float64) / np.sum(counts)
    return Classifier(classifier.kernel, classifier.bias - settings.method_tau * np.log(prior))


def _is_adjusted(settings: BaselineSettings) -> bool:
    return settings.method_tau != 0


LOSS = LabelMethod(build_loss, corrects_class_sizes=_is_adjusted)
POST_HOC = LabelMethod(
    lambda settings, counts: lambda z, y, progress: cross_entropy(z, y),  # noqa: ARG005
    adjust=subtract_prior,
    corrects_class_sizes=_is_adjusted,
)

"""tau-normalization of a trained classifier (Kang et al., "Decoupling", ICLR 2020)."""

import numpy as np
from absl import logging

from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.losses import cross_entropy
from candle_tf.methods.method import Classifier, LabelMethod, Validation

TAUS = tuple(step / 10 for step in range(11))


def normalize(classifier: Classifier, tau: float) -> Classifier:
    """w_c / |w_c|^tau, without bias (section 4).

    Args:
        classifier: a class whose weights are all 0 keeps them.
        tau: 0 leaves the weights, 1 gives all classes the same norm.
    """
    norms = np.linalg.norm(classifier.kernel.astype(np.float64), axis=0)
    norms[norms == 0] = 1.0
    return Classifier(classifier.kernel / norms**tau, np.zeros_like(classifier.bias))


def choose_tau(classifier: Classifier, features: np.ndarray, labels: np.ndarray) -> float:
    """The tau of `TAUS` with the highest mean class accuracy, the smaller of equals.

    Args:
        classifier: as trained.
        features: of validation images, float `[N, d_S]`.
        labels: int `[N]`.

    Returns:
        tau; 1 where there is no validation image.
    """
    if not len(labels):
        return 1.0
    classes = np.unique(labels)

    def accuracy(tau: float) -> float:
        correct = (features @ normalize(classifier, tau).kernel).argmax(axis=1) == labels
        return float(np.mean([correct[labels == label].mean() for label in classes]))

    return max(TAUS, key=lambda tau: (accuracy(tau), -tau))


def normalize_by_validation(
    settings: BaselineSettings,  # noqa: ARG001
    counts: np.ndarray,  # noqa: ARG001
    classifier: Classifier,
    validation: Validation,
) -> Classifier:
    """The classifier with the tau that suits the validation images best."""
    tau = choose_tau(classifier, *validation())
    logging.info("tau-normalization with tau %.1f", tau)
    return normalize(classifier, tau)


METHOD = LabelMethod(
    lambda settings, counts: lambda z, y, progress: cross_entropy(z, y),  # noqa: ARG005
    adjust=normalize_by_validation,
)

"""Classifiers changed after training, against loops over classes."""

import numpy as np
import pytest

from candle_tf.methods.long_tail.logit_adjustment import subtract_prior
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.long_tail.tau_normalization import (
    choose_tau,
    normalize,
    normalize_by_validation,
)
from candle_tf.methods.method import Classifier
from candle_tf.methods.registry import METHODS

COUNTS = np.array([90, 9, 1])
RNG = np.random.default_rng(0)
FEATURES = RNG.uniform(size=(40, 6))
CLASSIFIER = Classifier(RNG.normal(size=(6, 3)), RNG.normal(size=3))


def no_validation():
    return np.zeros((0, 6)), np.zeros(0, int)


def logits(classifier: Classifier) -> np.ndarray:
    return FEATURES @ classifier.kernel + classifier.bias


@pytest.mark.parametrize("tau", [0.0, 1.0, 2.5])
def test_post_hoc_logit_adjustment_divides_by_a_power_of_the_prior(tau):
    after = subtract_prior(BaselineSettings(method_tau=tau), COUNTS, CLASSIFIER, no_validation)
    odds = np.exp(logits(CLASSIFIER)) / (COUNTS / 100.0) ** tau
    np.testing.assert_allclose(np.exp(logits(after)), odds, rtol=1e-10)


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0])
def test_tau_normalization(tau):
    after = normalize(CLASSIFIER, tau)
    for c in range(3):
        weights = CLASSIFIER.kernel[:, c]
        np.testing.assert_allclose(after.kernel[:, c], weights / np.sqrt(weights @ weights) ** tau)
    assert (after.bias == 0).all()


def test_a_class_without_weights_stays_finite():
    after = normalize(Classifier(np.zeros((6, 3)), np.zeros(3)), 1.0)
    assert (after.kernel == 0).all()


def test_tau_is_chosen_by_the_mean_over_classes_of_the_validation_images():
    """The head's larger norm wins images of the tail until the norms are nearly alike."""
    classifier = Classifier(np.array([[8.0, 0.0], [0.0, 1.0]]), np.zeros(2))
    features = np.array([[1.0, 0.1]] * 50 + [[0.3, 1.0]] * 2)
    labels = np.array([0] * 50 + [1] * 2)
    # Class 1 is right where 0.3 * 8^(1 - tau) < 1: from tau = 0.43 on.
    assert choose_tau(classifier, features, labels) == 0.5
    assert choose_tau(classifier, *(features[:0], labels[:0])) == 1.0
    after = normalize_by_validation(
        BaselineSettings(), COUNTS[:2], classifier, lambda: (features, labels)
    )
    np.testing.assert_allclose(after.kernel, normalize(classifier, 0.5).kernel)


def test_the_exported_classifier_of_ldam_gives_the_classes_of_its_cosines():
    after = METHODS["ldam_drw"].adjust(BaselineSettings(), COUNTS, CLASSIFIER, no_validation)
    cosines = [[f @ w / np.sqrt((f @ f) * (w @ w)) for w in CLASSIFIER.kernel.T] for f in FEATURES]
    lengths = np.linalg.norm(FEATURES, axis=1, keepdims=True)
    np.testing.assert_allclose(logits(after) / lengths, 30 * np.array(cosines), rtol=1e-10)

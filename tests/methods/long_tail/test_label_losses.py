"""Losses on labels against their definitions in NumPy, float64."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import softmax

from candle_tf.methods.long_tail.class_balanced import effective_number_weights
from candle_tf.methods.long_tail.focal import focal_loss
from candle_tf.methods.long_tail.ldam import ldam_margins
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.method import LabelMethod
from candle_tf.methods.registry import METHODS

COUNTS = np.array([500, 120, 30, 7, 1])
LABEL_METHODS = [
    "focal", "class_balanced", "ldam_drw", "logit_adjustment", "post_hoc_logit_adjustment",
    "tau_normalization", "balanced_softmax",
]  # fmt: skip


def case(examples: int = 16, scale: float = 3.0):
    rng = np.random.default_rng(0)
    return rng.normal(0, scale, (examples, 5)), rng.integers(0, 5, examples)


def value_and_gradient(name: str, logits, labels, progress: float = 0.0, **settings):
    method = METHODS[name]
    assert isinstance(method, LabelMethod)
    loss = method.build_loss(BaselineSettings(**settings), COUNTS)
    z = tf.constant(logits, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(z)
        each = loss(z, tf.constant(labels), tf.constant(progress))
    return each.numpy(), tape.gradient(each, z).numpy()


def label_probability(logits, labels):
    return softmax(logits, axis=1)[np.arange(len(labels)), labels]


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal(gamma):
    logits, labels = case()
    p = label_probability(logits, labels)
    actual, _ = value_and_gradient("focal", logits, labels, focal_gamma=gamma)
    np.testing.assert_allclose(actual, -((1 - p) ** gamma) * np.log(p), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_the_factor_of_focal_has_a_gradient_too(gamma):
    logits, labels = case()
    _, actual = value_and_gradient("focal", logits, labels, focal_gamma=gamma)

    def losses_of(logits):
        p = label_probability(logits, labels)
        return -((1 - p) ** gamma) * np.log(p)

    for column, ahead in enumerate(1e-6 * np.eye(5)):
        expected = (losses_of(logits + ahead) - losses_of(logits - ahead)) / 2e-6
        np.testing.assert_allclose(actual[:, column], expected, rtol=1e-3, atol=1e-5)


def test_focal_has_a_gradient_where_an_image_is_learned():
    z = tf.constant([[200.0, 0.0, 0.0]])
    with tf.GradientTape() as tape:
        tape.watch(z)
        loss = focal_loss(z, tf.constant([0]), 0.5)
    assert np.isfinite(tape.gradient(loss, z).numpy()).all()


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.9999])
def test_weights_are_the_inverse_of_the_effective_number(beta):
    """The effective number is 1 + beta + beta^2 + ..., one summand an image."""
    numbers = np.array([sum(beta**k for k in range(n)) for n in COUNTS])
    expected = 1 / numbers / np.mean(1 / numbers)
    np.testing.assert_allclose(effective_number_weights(COUNTS, beta), expected, rtol=1e-8)


def test_class_balanced():
    logits, labels = case()
    numbers = np.array([sum(0.99**k for k in range(n)) for n in COUNTS])
    weights = 1 / numbers / np.mean(1 / numbers)
    expected = -weights[labels] * np.log(label_probability(logits, labels))
    actual, _ = value_and_gradient("class_balanced", logits, labels, class_balanced_beta=0.99)
    np.testing.assert_allclose(actual, expected, rtol=1e-5)


def test_ldam_before_and_after_its_re_weighting():
    cosines, labels = np.tanh(case()[0]), case()[1]
    margins = 0.4 * (COUNTS.min() / COUNTS) ** 0.25
    np.testing.assert_allclose(ldam_margins(COUNTS, 0.4), margins, rtol=1e-12)
    moved = 20.0 * cosines
    moved[np.arange(len(labels)), labels] -= 20.0 * margins[labels]
    plain = -np.log(label_probability(moved, labels))
    settings = {"ldam_margin": 0.4, "ldam_scale": 20.0, "deferred_fraction": 0.7,
                "class_balanced_beta": 0.99}  # fmt: skip
    early, _ = value_and_gradient("ldam_drw", cosines, labels, 0.69, **settings)
    np.testing.assert_allclose(early, plain, rtol=1e-4, atol=1e-6)
    numbers = np.array([sum(0.99**k for k in range(n)) for n in COUNTS])
    # As of PyTorch's weighted cross-entropy: a mean over training images is one of weights, too.
    weights = 1 / numbers * COUNTS.sum() / np.sum(COUNTS / numbers)
    late, _ = value_and_gradient("ldam_drw", cosines, labels, 0.7, **settings)
    np.testing.assert_allclose(late, weights[labels] * plain, rtol=1e-4, atol=1e-6)


def test_logit_adjustment_has_a_tau_of_its_own():
    logits, labels = case()
    adjusted = logits + 1.5 * np.log(COUNTS / COUNTS.sum())
    actual, _ = value_and_gradient("logit_adjustment", logits, labels, method_tau=1.5)
    expected = -np.log(label_probability(adjusted, labels))
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


def test_balanced_softmax():
    logits, labels = case()
    expected = -np.log(label_probability(logits + np.log(COUNTS), labels))
    actual, _ = value_and_gradient("balanced_softmax", logits, labels, method_tau=3.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["post_hoc_logit_adjustment", "tau_normalization"])
def test_what_is_adjusted_afterwards_is_trained_by_cross_entropy(name):
    logits, labels = case()
    actual, _ = value_and_gradient(name, logits, labels, method_tau=2.0)
    np.testing.assert_allclose(actual, -np.log(label_probability(logits, labels)), rtol=1e-4)


@pytest.mark.parametrize("name", LABEL_METHODS)
def test_a_step_raises_the_labels_logit_and_lowers_all_others(name):
    logits, labels = case(scale=0.3)
    _, gradient = value_and_gradient(name, logits, labels, progress=0.9)
    is_label = np.eye(5, dtype=bool)[labels]
    assert (gradient[is_label] < 0).all()
    assert (gradient[~is_label] > 0).all()


@pytest.mark.parametrize(
    "name", ["class_balanced", "ldam_drw", "logit_adjustment", "balanced_softmax"]
)
def test_rare_classes_have_larger_losses_on_equal_logits(name):
    actual, _ = value_and_gradient(name, np.zeros((5, 5)), np.arange(5), progress=0.9)
    assert (np.diff(actual) > 0).all()

"""Correction of a student's outputs for the classes that it prefers."""

import numpy as np
import pytest
from scipy.special import softmax

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.class_accuracy import mean_class_accuracy
from candle_tf.methods.method import Classifier
from candle_tf.methods.prior_correction import (
    choose_strength,
    correct_held_out,
    correct_prior,
    mean_prediction,
)

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], [300, 60, 15])
# A student that tells the classes apart, and one that prefers the first.
FAIR = RNG.normal(size=(375, 3)) + 1.5 * np.eye(3)[LABELS]
UNFAIR = FAIR + np.array([1.2, 0.0, -1.2])


def test_the_mean_prediction_weighs_all_classes_alike():
    p = mean_prediction(UNFAIR, LABELS)
    by_class = [softmax(UNFAIR[c == LABELS], axis=1).mean(axis=0) for c in range(3)]
    np.testing.assert_allclose(p, sum(by_class) / 3)
    assert p.sum() == pytest.approx(1)
    assert p[0] > 0.5 > 0.2 > p[2]


def test_a_preference_is_found_and_taken_back_and_a_fair_student_is_left():
    strength = choose_strength(UNFAIR, LABELS)
    assert strength > 0
    corrected = UNFAIR - strength * np.log(mean_prediction(UNFAIR, LABELS))
    gain = mean_class_accuracy(LABELS, corrected) - mean_class_accuracy(LABELS, UNFAIR)
    assert gain > 0.03
    # With equal predictions for all no strength changes anything: the smallest is taken.
    assert choose_strength(np.zeros_like(FAIR), LABELS) == 0


def test_without_two_images_of_a_class_nothing_is_chosen():
    assert choose_strength(UNFAIR[:0], LABELS[:0]) == 0
    one_of_each = [0, 300, 360]
    assert choose_strength(UNFAIR[one_of_each], LABELS[one_of_each]) == 0
    np.testing.assert_array_equal(
        correct_held_out(UNFAIR[one_of_each], LABELS[one_of_each], 1.0), UNFAIR[one_of_each]
    )


def test_no_image_is_corrected_by_itself():
    """Each fifth, the images of a class in turn, by what is predicted of the others."""
    part = np.concatenate([np.arange(n) % 5 for n in (300, 60, 15)])
    corrected = correct_held_out(UNFAIR, LABELS, 0.5)
    for own in range(5):
        p = mean_prediction(UNFAIR[part != own], LABELS[part != own])
        expected = UNFAIR[part == own] - 0.5 * np.log(p)
        np.testing.assert_allclose(corrected[part == own], expected)
    changed = UNFAIR.copy()
    changed[0] = [9.0, -9.0, -9.0]
    shift = correct_held_out(changed, LABELS, 0.5) - changed
    np.testing.assert_allclose(shift[0], (corrected - UNFAIR)[0])
    assert not np.allclose(shift[1], (corrected - UNFAIR)[1])


def test_only_the_bias_changes_and_a_class_that_is_never_predicted_stays_finite():
    classifier = Classifier(RNG.normal(size=(5, 3)), RNG.normal(size=3))
    features, p = RNG.normal(size=(7, 5)), np.array([0.7, 0.3, 0.0])
    after = correct_prior(classifier, p, 0.5)
    assert after.kernel is classifier.kernel
    logits = features @ classifier.kernel + classifier.bias
    expected = logits - 0.5 * np.log(np.array([0.7, 0.3, 1e-6]))
    np.testing.assert_allclose(features @ after.kernel + after.bias, expected)
    np.testing.assert_array_equal(correct_prior(classifier, p, 0.0).bias, classifier.bias)


def test_values_that_cannot_be_used_are_sentences():
    for value in ("some", "1.5", "-0.1", "nan"):
        with pytest.raises(UserError, match=f"--prior_correction={value} is not known"):
            Config(prior_correction=value)
    with pytest.raises(UserError, match="--prior_correction=auto contradicts"):
        Config(prior_correction="auto", validation_fraction=0, select_epoch="last")

"""Correction of a student's outputs for the classes that it prefers."""

import tracemalloc

import numpy as np
import pytest
from scipy.special import softmax

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.class_accuracy import mean_class_accuracy
from candle_tf.methods.method import Classifier
from candle_tf.methods.prior_correction import (
    LazyLogits,
    choose_strength,
    correct_prior,
    corrected_blocks,
    held_out_log_predictions,
    held_out_logs,
    mean_prediction,
    split_by_class,
)

RNG = np.random.default_rng(0)
LABELS = np.repeat([0, 1, 2], [300, 60, 15])
# A student that tells the classes apart, and one that prefers the first.
FAIR = RNG.normal(size=(375, 3)) + 1.5 * np.eye(3)[LABELS]
UNFAIR = FAIR + np.array([1.2, 0.0, -1.2])


NONE = (np.zeros((0, 3)), np.zeros(0, int))


def strength_of(logits: np.ndarray, labels: np.ndarray) -> float:
    lazy = LazyLogits.of_array(logits, labels)
    return choose_strength(lazy, held_out_logs(lazy, LazyLogits.of_array(*NONE)))


def mean_of(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p, by its formula."""
    p = softmax(logits, axis=1)
    return np.mean([p[labels == c].mean(axis=0) for c in np.unique(labels)], axis=0)


def test_the_mean_prediction_weighs_all_classes_alike():
    p = mean_prediction(split_by_class(UNFAIR, LABELS))
    by_class = [softmax(UNFAIR[c == LABELS], axis=1).mean(axis=0) for c in range(3)]
    np.testing.assert_allclose(p, sum(by_class) / 3)
    assert p.sum() == pytest.approx(1)
    assert p[0] > 0.5 > 0.2 > p[2]


def test_a_preference_is_found_and_taken_back_and_a_fair_student_is_left():
    strength = strength_of(UNFAIR, LABELS)
    assert strength > 0
    corrected = UNFAIR - strength * np.log(mean_of(UNFAIR, LABELS))
    before, after = (
        mean_class_accuracy(LABELS, logits.argmax(axis=1)) for logits in (UNFAIR, corrected)
    )
    gain = after - before
    assert gain > 0.03
    # With equal predictions for all no strength changes anything: the smallest is taken.
    equal = np.zeros_like(FAIR)
    assert strength_of(equal, LABELS) == 0
    assert strength_of(FAIR[:0], LABELS[:0]) == 0


def test_no_image_is_corrected_by_itself():
    """Each fifth, the images of a class in turn, by what is predicted of the others."""
    part = np.concatenate([np.arange(n) % 5 for n in (300, 60, 15)])
    logs = held_out_log_predictions(UNFAIR, LABELS, *NONE)
    for own in range(5):
        p = mean_of(UNFAIR[part != own], LABELS[part != own])
        np.testing.assert_allclose(logs[part == own], np.tile(np.log(p), (75, 1)), rtol=1e-5)
    changed = UNFAIR.copy()
    changed[0] = [9.0, -9.0, -9.0]
    after = held_out_log_predictions(changed, LABELS, *NONE)
    np.testing.assert_array_equal(after[0], logs[0])
    assert not np.allclose(after[1], logs[1])


def test_an_image_alone_in_its_class_has_other_images_of_the_class_in_its_place():
    """Otherwise the p of the others would lack its class, and so tell what it is."""
    one_of_each = [0, 300, 360]
    more, more_labels = UNFAIR[1:], LABELS[1:]
    logs = held_out_log_predictions(UNFAIR[one_of_each], np.arange(3), more, more_labels)
    np.testing.assert_allclose(logs[0], np.log(mean_of(more, more_labels)), rtol=1e-5)
    two_and_one = [0, 1, 300]
    logs = held_out_log_predictions(UNFAIR[two_and_one], LABELS[two_and_one], more, more_labels)
    # Of the class with two images the other one is taken, of the others those of `more`.
    rest = np.concatenate([UNFAIR[[1]], more[more_labels != 0]])
    labels = np.concatenate([[0], more_labels[more_labels != 0]])
    np.testing.assert_allclose(logs[0], np.log(mean_of(rest, labels)), rtol=1e-5)


def whole_log_predictions(logits, labels, more, more_labels) -> np.ndarray:
    """By loops over parts and classes, with all logits in memory."""
    part, logs = np.zeros(len(labels), int), np.empty(logits.shape, np.float32)
    each, other = softmax(logits.astype(float), axis=1), softmax(more.astype(float), axis=1)
    for label in np.unique(labels):
        part[labels == label] = np.arange(np.sum(labels == label)) % 5
    for own in np.unique(part):
        rest = part != own
        means = [
            each[rest & (labels == c)].mean(axis=0)
            if np.any(rest & (labels == c))
            else other[more_labels == c].mean(axis=0)
            for c in np.union1d(labels[rest], more_labels)
        ]
        logs[part == own] = np.log(np.maximum(np.mean(means, axis=0), 1e-6))
    return logs


@pytest.fixture(scope="module")
def wide():
    """5,000 images of 1,500 classes, in three blocks, and other images of 600 of them."""
    rng = np.random.default_rng(1)
    features, others = (rng.normal(size=(n, 24)).astype(np.float32) for n in (5000, 600))
    labels, of_others = rng.integers(0, 1400, 5000), rng.permutation(1500)[:600]
    kernel = (0.4 * rng.normal(size=(24, 1500))).astype(np.float32)
    bias = -np.linspace(0, 6, 1500).astype(np.float32)

    def lazily(values: np.ndarray, classes: np.ndarray) -> LazyLogits:
        return LazyLogits(classes, 1500, lambda rows: values[rows] @ kernel + bias)

    whole = (features @ kernel + bias, labels, others @ kernel + bias, of_others)
    return lazily(features, labels), lazily(others, of_others), whole


def test_blocks_give_what_all_logits_at_once_give(wide):
    images, others, (logits, labels, *more) = wide
    assert [len(some) for _, some in images.blocks()] == [2048, 2048, 904]
    np.testing.assert_allclose(np.concatenate([s for _, s in images.blocks()]), logits, 1e-4, 1e-4)
    logs = held_out_logs(images, others)
    expected = whole_log_predictions(logits, labels, *more)
    np.testing.assert_allclose(logs.of(slice(None)), expected, rtol=1e-5)
    strength = choose_strength(images, logs)
    scores = [
        mean_class_accuracy(labels, (logits - t * expected).argmax(axis=1))
        for t in (0, 0.25, 0.5, 0.75, 1)
    ]
    assert strength == [0, 0.25, 0.5, 0.75, 1][int(np.argmax(scores))]
    predicted = np.concatenate([b.argmax(axis=1) for b in corrected_blocks(images, logs, 0.75)])
    np.testing.assert_array_equal(predicted, (logits - 0.75 * expected).argmax(axis=1))


def test_memory_is_that_of_a_block_for_any_number_of_images():
    """The logits of 8,192 images of 4,000 classes are 131 MB, and there were four such arrays."""
    rng = np.random.default_rng(2)
    features = rng.normal(size=(8192, 4)).astype(np.float32)
    kernel = rng.normal(size=(4, 4000)).astype(np.float32)
    labels = np.arange(8192) % 4000
    images = LazyLogits(labels, 4000, lambda rows: features[rows] @ kernel)
    nothing = LazyLogits.of_array(np.zeros((0, 4000)), labels[:0])
    tracemalloc.start()
    try:
        logs = held_out_logs(images, nothing)
        predicted = [each.argmax(axis=1) for each in corrected_blocks(images, logs, 1.0)]
        assert tracemalloc.get_traced_memory()[1] < 100e6
    finally:
        tracemalloc.stop()
    assert sum(map(len, predicted)) == 8192


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

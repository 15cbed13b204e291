"""The loss on labels beside CANDLE's others: its weight, and its shares of the classes."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.samplers import class_probabilities
from candle_tf.methods.label_loss import (
    AdaptLabelWeight,
    adapted_label_weight,
    automatic_label_weight,
    balanced_softmax_of_epochs,
)

COUNTS = np.array([90, 9, 1])
LOGITS = np.random.default_rng(0).normal(0, 3, (12, 3))
LABELS = np.arange(12) % 3


def _of_numpy(shares: np.ndarray) -> np.ndarray:
    powers = shares * np.exp(LOGITS)
    return -np.log(powers[np.arange(12), LABELS] / powers.sum(axis=1))


def _of_sampler(sampler: str, progress: float, epochs: int = 10, unit: float = 1.0) -> np.ndarray:
    shares = np.stack(
        [class_probabilities(sampler, COUNTS, epoch, epochs) for epoch in range(epochs)]
    )
    loss = balanced_softmax_of_epochs(shares, 100 * epochs, unit)
    logits, labels = tf.constant(LOGITS, tf.float32), tf.constant(LABELS)
    return loss(logits, labels, tf.constant(progress)).numpy()


@pytest.mark.parametrize("progress", [0.0, 0.44, 0.999, 1.0])
@pytest.mark.parametrize(
    ("sampler", "power"), [("instance", 1.0), ("square_root", 0.5), ("class_balanced", 0.0)]
)
def test_the_correction_is_for_what_the_sampler_shows(sampler, power, progress):
    shares = COUNTS**power / np.sum(COUNTS**power)
    np.testing.assert_allclose(_of_sampler(sampler, progress), _of_numpy(shares), rtol=1e-5)


def test_the_correction_changes_when_a_deferred_sampler_begins():
    before, after = COUNTS / COUNTS.sum(), np.full(3, 1 / 3)
    for progress, shares in ((0.0, before), (0.499, before), (0.5, after), (1.0, after)):
        losses = _of_sampler("deferred_class_balanced", progress)
        np.testing.assert_allclose(losses, _of_numpy(shares), rtol=1e-5)


def test_a_progressive_sampler_is_followed_epoch_by_epoch():
    for epoch in range(10):
        shares = (1 - epoch / 10) * COUNTS / COUNTS.sum() + epoch / 10 / 3
        losses = _of_sampler("progressive", (epoch + 0.5) / 10)
        np.testing.assert_allclose(losses, _of_numpy(shares), rtol=1e-5)


@pytest.mark.parametrize("epochs", [75, 100])
def test_every_step_has_the_shares_of_its_own_epoch(epochs):
    in_epoch = 86
    steps = epochs * in_epoch
    shares = np.stack([np.full(epochs, 1 / epochs), np.arange(1, epochs + 1) / epochs], axis=1)
    shares /= shares.sum(axis=1, keepdims=True)
    loss = balanced_softmax_of_epochs(shares, steps, 1.0)
    # The fraction as a trainer computes it, in float32.
    number = tf.Variable(0, dtype=tf.int64)
    for epoch in range(epochs):
        for step in (epoch * in_epoch, (epoch + 1) * in_epoch - 1):
            number.assign(step)
            progress = tf.cast(number, tf.float32) / float(steps)
            value = loss(tf.zeros([1, 2]), tf.constant([1]), progress)
            assert value.numpy()[0] == pytest.approx(-np.log(shares[epoch, 1]), abs=1e-5), step


def test_the_loss_is_in_its_unit():
    np.testing.assert_allclose(
        _of_sampler("instance", 0.0, unit=4.0), _of_sampler("instance", 0.0) / 4.0, rtol=1e-6
    )


def test_a_class_that_is_never_shown_leaves_losses_and_gradients_finite():
    loss = balanced_softmax_of_epochs(np.array([[0.5, 0.5, 0.0]]), 10, 1.0)
    logits = tf.Variable(tf.constant(LOGITS, tf.float32))
    with tf.GradientTape() as tape:
        losses = loss(logits, tf.constant(LABELS % 2), tf.constant(0.0))
    gradient = tape.gradient(losses, logits).numpy()
    assert np.isfinite(losses.numpy()).all()
    np.testing.assert_allclose(gradient[:, 2], 0.0, atol=1e-6)


def test_the_automatic_weight_is_what_the_teacher_gets_wrong():
    assert automatic_label_weight(1.0, 10) == 0.0
    assert automatic_label_weight(0.1, 10) == pytest.approx(1.0)
    assert automatic_label_weight(0.0, 10) == 1.0
    assert automatic_label_weight(0.55, 10) == pytest.approx(0.5)
    assert automatic_label_weight(1.0, 1) == 0.0


@pytest.mark.parametrize(
    ("teacher", "student", "expected"),
    [
        # As good as each other; a student that is better, and one that is far from its teacher.
        (0.83, 0.83, 0.5),
        (0.80, 0.90, 0.04 / 0.05),
        (0.86, 0.40, automatic_label_weight(0.86, 10)),
        (0.86, 0.70, 0.14**2 / (0.14**2 + 0.3**2)),
        # Of a teacher at chance all is on labels whatever the student is worth.
        (0.10, 0.30, 1.0),
        (1.0, 0.5, 0.0),
        (1.0, 1.0, 0.0),
    ],
)
def test_the_adapted_weight_is_of_the_squared_errors_and_no_less_than_the_first(
    teacher, student, expected
):
    assert adapted_label_weight(teacher, student, 10) == pytest.approx(expected)


def test_the_adapted_weight_has_the_least_squared_error_of_a_mix():
    rng = np.random.default_rng(0)
    teacher, student = rng.normal(0, 0.2, 10**6), rng.normal(0, 0.1, 10**6)
    weights = np.linspace(0, 1, 101)
    errors = [np.mean((w * student + (1 - w) * teacher) ** 2) for w in weights]
    found = adapted_label_weight(0.8, 0.9, 1000)
    assert weights[np.argmin(errors)] == pytest.approx(found, abs=0.02)


def test_the_weight_of_a_callback_rises_with_the_student_and_never_falls():
    weight = tf.Variable(0.2)
    callback = AdaptLabelWeight(weight, teacher=0.82, classes=10)
    seen = []
    for accuracy in (0.3, 0.7, 0.82, 0.6, None, 0.9):
        logs = {} if accuracy is None else {"val_mean_class_accuracy": accuracy}
        callback.on_epoch_end(0, logs)
        seen.append(float(weight))
    expected = [0.2, 0.18**2 / (0.18**2 + 0.3**2), 0.5, 0.5, 0.5, 0.18**2 / (0.18**2 + 0.1**2)]
    np.testing.assert_allclose(seen, expected, rtol=1e-6)

"""Distillation losses against probabilities in NumPy, float64."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, rel_entr, softmax

from candle_tf.methods.long_tail.dive import dive_divergence
from candle_tf.methods.long_tail.ltkd import class_groups, ltkd_divergence
from candle_tf.methods.long_tail.settings import BaselineSettings
from candle_tf.methods.registry import METHODS

COUNTS = np.array([500, 120, 60, 30, 7, 1])
GROUPS = [np.array([0, 1]), np.array([2, 3]), np.array([4, 5])]
RNG = np.random.default_rng(0)
TEACHER, STUDENT = RNG.normal(0, 3, (8, 6)), RNG.normal(0, 3, (8, 6))
LABELS = RNG.integers(0, 6, 8)


def f32(values) -> tf.Tensor:
    return tf.constant(values, tf.float32)


def ltkd_by_hand(teacher, student, temperature, cross_weight, within_weight):
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    masses = np.array([[row[g].sum() for g in GROUPS] for row in p])
    balanced = masses / masses.mean(axis=0)
    balanced /= balanced.sum(axis=1, keepdims=True)
    expected = []
    for row in range(len(p)):
        cross = sum(
            b * np.log(b / q[row][g].sum()) for b, g in zip(balanced[row], GROUPS, strict=True)
        )
        within = [
            rel_entr(p[row][g] / p[row][g].sum(), q[row][g] / q[row][g].sum()).sum() for g in GROUPS
        ]
        expected.append(cross_weight * cross + within_weight * np.mean(within))
    return temperature**2 * np.array(expected)


@pytest.mark.parametrize("weights", [(1.0, 0.0), (0.0, 1.0), (2.0, 0.5)])
def test_ltkd(weights):
    actual = ltkd_divergence(f32(TEACHER), f32(STUDENT), GROUPS, 4.0, *weights)
    expected = ltkd_by_hand(TEACHER, STUDENT, 4.0, *weights)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_ltkd_moves_the_student_as_finite_differences_say():
    z = f32(STUDENT)
    with tf.GradientTape() as tape:
        tape.watch(z)
        total = tf.reduce_sum(ltkd_divergence(f32(TEACHER), z, GROUPS, 2.0, 1.0, 1.0))
    gradient = tape.gradient(total, z).numpy()
    for row, column in ((0, 0), (3, 2), (7, 5)):
        step = np.zeros_like(STUDENT)
        step[row, column] = 1e-5
        up, down = (
            ltkd_by_hand(TEACHER, STUDENT + sign * step, 2.0, 1.0, 1.0).sum() for sign in (1, -1)
        )
        assert gradient[row, column] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-4)


def test_ltkd_asks_for_equal_groups_of_a_teacher_that_always_prefers_the_head():
    """Alone in its batch, an image's own group probabilities are what is divided by."""
    biased = np.array([[9.0, 9.0, 0.0, 0.0, 0.0, 0.0]])
    uniform = ltkd_divergence(f32(biased), f32(np.zeros((1, 6))), GROUPS, 1.0, 1.0, 0.0)
    assert uniform.numpy()[0] == pytest.approx(0.0, abs=1e-5)


def test_ltkd_is_finite_for_a_group_that_the_teacher_never_gives():
    biased = np.array([[900.0, 900.0, 0.0, 0.0, 0.0, 0.0]])
    actual = ltkd_divergence(f32(biased), f32(np.zeros((1, 6))), GROUPS, 1.0, 1.0, 1.0)
    assert np.isfinite(actual.numpy()).all()


def test_groups_are_shot_groups_or_thirds():
    assert [g.tolist() for g in class_groups(COUNTS)] == [[0, 1], [2, 3], [4, 5]]
    assert [g.tolist() for g in class_groups(np.array([3, 9, 6]))] == [[1], [2], [0]]
    assert [g.tolist() for g in class_groups(np.array([5, 6]))] == [[1], [0]]


@pytest.mark.parametrize("power", [0.5, 1.0])
def test_dive(power):
    flat = softmax(TEACHER / 3.0, axis=1) ** power
    flat /= flat.sum(axis=1, keepdims=True)
    expected = 9.0 * rel_entr(flat, softmax(STUDENT / 3.0, axis=1)).sum(axis=1)
    actual = dive_divergence(f32(TEACHER), f32(STUDENT), 3.0, power)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "shift"),
    [
        ("plain_distillation", np.zeros(6)),
        ("ltkd", np.zeros(6)),
        ("dive", np.log(COUNTS)),
    ],
)
def test_label_losses_of_distillation(name, shift):
    losses = METHODS[name].build_losses(
        BaselineSettings(distillation_label_weight=0.3), 4.0, COUNTS
    )
    assert losses.label_weight == 0.3
    expected = -log_softmax(STUDENT + shift, axis=1)[np.arange(8), LABELS]
    np.testing.assert_allclose(losses.of_labels(f32(STUDENT), LABELS), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["plain_distillation", "dive", "ltkd"])
def test_a_teacher_that_agrees_moves_nothing(name):
    settings = BaselineSettings(dive_power=1.0)
    of_teacher = METHODS[name].build_losses(settings, 4.0, COUNTS).of_teacher
    # Of two images with opposite preferences, neither group is preferred over the batch.
    agreeing = np.array([[4.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0, 1.0, 4.0],
                         [0.0, 0.0, 4.0, 1.0, 0.0, 0.0]])  # fmt: skip
    z = f32(agreeing)
    with tf.GradientTape() as tape:
        tape.watch(z)
        total = of_teacher(f32(agreeing), z)
    np.testing.assert_allclose(total, np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(tape.gradient(total, z), np.zeros((3, 6)), atol=1e-5)

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, softmax

from candle_tf.methods.balance import BalanceInputs, build_total_loss
from candle_tf.methods.registry import LOGIT_LOSSES
from candle_tf.methods.settings import BalanceSettings

RNG = np.random.default_rng(0)
TEACHER = RNG.normal(1, 4, (12, 6)).astype(np.float32)
STUDENT = RNG.normal(-1, 2, (12, 6)).astype(np.float32)


def _kl(teacher, student, temperature):
    p, q = log_softmax(teacher / temperature, axis=1), log_softmax(student / temperature, axis=1)
    return temperature**2 * (np.exp(p) * (p - q)).sum(axis=1)


def _standard(logits):
    return (logits - logits.mean(axis=1, keepdims=True)) / logits.std(axis=1, keepdims=True)


def _losses_of(name, teacher, student, temperature):
    teacher, student = teacher.astype(np.float64), student.astype(np.float64)
    if name == "kl":
        return _kl(teacher, student, temperature)
    if name == "standardized":
        return 9 * _kl(_standard(teacher), _standard(student), temperature)
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    rows = np.array([np.corrcoef(one, other)[0, 1] for one, other in zip(p, q, strict=True)])
    columns = [np.corrcoef(one, other)[0, 1] for one, other in zip(p.T, q.T, strict=True)]
    return 2 * (1 - rows) + 2 * (1 - np.mean(columns))


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_each_loss_and_its_gradient_are_the_formulas(name):
    student = tf.Variable(STUDENT)
    with tf.GradientTape() as tape:
        each = LOGIT_LOSSES[name](tf.constant(TEACHER), student, 3.0)
        total = tf.reduce_sum(each)
    np.testing.assert_allclose(each, _losses_of(name, TEACHER, STUDENT, 3.0), rtol=1e-3, atol=1e-5)
    gradient = tape.gradient(total, student).numpy()
    for place in ((0, 0), (5, 3), (11, 5)):
        ends = []
        for step in (-1e-5, 1e-5):
            moved = STUDENT.astype(np.float64)
            moved[place] += step
            ends.append(_losses_of(name, TEACHER, moved, 3.0).sum())
        expected = (ends[1] - ends[0]) / 2e-5
        assert gradient[place] == pytest.approx(expected, rel=1e-2, abs=1e-3)


def test_size_and_shift_of_standardized_logits_have_no_effect():
    loss = LOGIT_LOSSES["standardized"]
    one = loss(tf.constant(TEACHER), tf.constant(STUDENT), 2.0)
    other = loss(tf.constant(5 * TEACHER - 3), tf.constant(0.3 * STUDENT + 7), 2.0)
    np.testing.assert_allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_equal_logits_have_no_loss_and_equal_probabilities_the_reference(name):
    loss = LOGIT_LOSSES[name]
    np.testing.assert_allclose(loss(tf.constant(TEACHER), tf.constant(TEACHER), 2.0), 0, atol=1e-4)
    constant = loss(tf.constant(TEACHER), tf.zeros_like(TEACHER), 2.0)
    reference = loss.of_uniform(np.array_split(TEACHER, 3), 2.0)
    assert float(tf.reduce_mean(constant)) == pytest.approx(reference, rel=1e-4)
    assert 0 < loss.of_mean([TEACHER], 2.0) <= reference + 1e-9


def test_no_constant_is_nearer_by_correlation_than_the_mean_of_unit_rows():
    # With classes that are common to all images, as a long tail has them.
    teacher = (TEACHER + np.array([8, 4, 0, 0, 0, 0])).astype(np.float32)
    loss = LOGIT_LOSSES["dist"]
    p = softmax(teacher.astype(np.float64) / 3.0, axis=1)
    centred = p - p.mean(axis=1, keepdims=True)
    best = (centred / np.linalg.norm(centred, axis=1, keepdims=True)).mean(axis=0)

    def rows_and_columns(probabilities: np.ndarray) -> float:
        rows = [np.corrcoef(row, probabilities)[0, 1] for row in p]
        return 2 * (1 - np.mean(rows)) + 2

    found = loss.of_mean(np.array_split(teacher, 3), 3.0)
    assert found == pytest.approx(rows_and_columns(1 / 6 + 0.1 * best), rel=1e-9)
    constant = np.tile(3.0 * np.log(1 / 6 + 0.1 * best), (len(teacher), 1))
    each = loss(tf.constant(teacher), tf.constant(constant, tf.float32), 3.0)
    assert float(tf.reduce_mean(each)) == pytest.approx(found, rel=1e-4)
    for _ in range(20):
        assert rows_and_columns(1 / 6 + 0.1 * best + RNG.normal(0, 0.02, 6)) > found
    assert found < loss.of_uniform([teacher], 3.0) - 0.5


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
@pytest.mark.parametrize("classes", [1, 2, 8142])
@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_every_loss_is_finite(name, classes, temperature):
    teacher = RNG.normal(0, 5, (8, classes)).astype(np.float32)
    student = tf.Variable(RNG.normal(0, 5, (8, classes)).astype(np.float32))
    with tf.GradientTape() as tape:
        each = LOGIT_LOSSES[name](tf.constant(teacher), student, temperature)
    assert np.isfinite(each.numpy()).all()
    assert np.isfinite(tape.gradient(each, student).numpy()).all()
    assert np.isfinite(LOGIT_LOSSES[name].of_uniform([teacher], temperature))
    assert np.isfinite(LOGIT_LOSSES[name].of_mean([teacher], temperature))


@pytest.mark.parametrize("name", LOGIT_LOSSES)
def test_balances_are_in_units_of_the_loss_that_is_used(name):
    loss = LOGIT_LOSSES[name]
    inputs = BalanceInputs(lambda: [TEACHER], 1.0, np.arange(6) + 1, "instance")

    def build(balance):
        settings = BalanceSettings(balance=balance, logit_loss=name, temperature=3.0)
        return build_total_loss(settings, inputs)

    uniform = loss.of_uniform([TEACHER], 3.0)
    assert build("adversarial").entropy_weight == pytest.approx(0.2 * uniform)
    assert build("relative").kl_reference == pytest.approx(uniform)
    assert build("class_adversarial").kl_reference == pytest.approx(loss.of_mean([TEACHER], 3.0))

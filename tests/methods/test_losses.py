import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax, rel_entr, softmax

from candle_tf.methods import losses

COUNTS = np.array([500, 120, 30, 7, 1])


def _case(classes: int = 5, scale: float = 3.0, examples: int = 16, seed: int = 0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, scale, (examples, classes))
    return logits, rng.integers(0, classes, examples)


def _f32(values) -> tf.Tensor:
    return tf.constant(values, tf.float32)


# Each loss once more in float64, from its definition.


def _of_label(log_probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return -log_probabilities[np.arange(len(labels)), labels]


def _weighted_softmax_loss(logits: np.ndarray, labels: np.ndarray, weights: np.ndarray):
    """-log( w_y e^z_y / sum_c w_c e^z_c ), with the largest logit taken out."""
    powers = weights * np.exp(logits - logits.max(axis=1, keepdims=True))
    return _of_label(np.log(powers / powers.sum(axis=1, keepdims=True)), labels)


def _smooth(logits: np.ndarray, labels: np.ndarray, rates: np.ndarray) -> np.ndarray:
    classes = logits.shape[1]
    targets = np.empty(logits.shape)
    for row, label in enumerate(labels):
        targets[row] = rates[label] / (classes - 1)
        targets[row, label] = 1 - rates[label]
    return -(targets * log_softmax(logits, axis=1)).sum(axis=1)


def _tempered_kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> np.ndarray:
    p, q = softmax(teacher / temperature, axis=1), softmax(student / temperature, axis=1)
    return temperature**2 * rel_entr(p, q).sum(axis=1)


@pytest.mark.parametrize("classes", [2, 5])
def test_cross_entropy(classes):
    logits, labels = _case(classes)
    expected = _of_label(log_softmax(logits, axis=1), labels)
    actual = losses.cross_entropy(_f32(logits), labels)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("counts", [COUNTS, np.full(5, 40), np.array([3, 900])])
def test_balanced_softmax(counts):
    logits, labels = _case(len(counts))
    expected = _weighted_softmax_loss(logits, labels, counts)
    actual = losses.balanced_softmax(_f32(logits), labels, counts)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tau", [0.5, 1.0, 2.5])
def test_logit_adjustment(tau):
    logits, labels = _case()
    expected = _weighted_softmax_loss(logits, labels, (COUNTS / COUNTS.sum()) ** tau)
    actual = losses.logit_adjustment(_f32(logits), labels, COUNTS, tau)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_logit_adjustment_between_cross_entropy_and_balanced_softmax():
    logits, labels = _case()
    of_tau = {
        tau: losses.logit_adjustment(_f32(logits), labels, COUNTS, tau).numpy() for tau in (0, 1)
    }
    np.testing.assert_allclose(of_tau[0], losses.cross_entropy(_f32(logits), labels), rtol=1e-6)
    balanced = losses.balanced_softmax(_f32(logits), labels, COUNTS)
    np.testing.assert_allclose(of_tau[1], balanced, rtol=1e-6)
    assert np.abs(of_tau[0] - of_tau[1]).min() > 0.01


def test_equal_counts_change_nothing():
    logits, labels = _case()
    plain = losses.cross_entropy(_f32(logits), labels)
    equal = np.full(5, 17)
    for adjusted in (
        losses.balanced_softmax(_f32(logits), labels, equal),
        losses.logit_adjustment(_f32(logits), labels, equal, 3.0),
    ):
        np.testing.assert_allclose(adjusted, plain, rtol=1e-5, atol=1e-6)


def test_balanced_softmax_asks_more_of_the_tail():
    """On indifferent logits the loss of class c is -log(prior_c)."""
    labels = np.arange(5)
    actual = losses.balanced_softmax(tf.zeros([5, 5]), labels, COUNTS)
    np.testing.assert_allclose(actual, -np.log(COUNTS / COUNTS.sum()), rtol=1e-6)


def test_smoothing_rates_follow_the_concave_form():
    rates = losses.smoothing_rates(np.array([10, 110, 60, 35]), head=0.4, tail=0.1)
    expected = 0.1 + 0.3 * np.sin(np.pi / 2 * np.array([0.0, 1.0, 0.5, 0.25]))
    np.testing.assert_allclose(rates, expected, rtol=1e-12)
    np.testing.assert_array_equal(losses.smoothing_rates(np.full(3, 9), 0.4, 0.1), np.full(3, 0.4))


@pytest.mark.parametrize("counts", [COUNTS, np.full(5, 40), np.array([3, 900])])
def test_label_aware_smoothing(counts):
    logits, labels = _case(len(counts))
    rates = losses.smoothing_rates(counts, head=0.36, tail=0.08)
    actual = losses.label_aware_smoothing(_f32(logits), labels, rates)
    np.testing.assert_allclose(actual, _smooth(logits, labels, rates), rtol=1e-5, atol=1e-6)


def test_label_aware_smoothing_of_nothing_is_cross_entropy():
    logits, labels = _case()
    actual = losses.label_aware_smoothing(_f32(logits), labels, np.zeros(5))
    np.testing.assert_allclose(actual, losses.cross_entropy(_f32(logits), labels), rtol=1e-6)


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0, 8.0])
def test_kl_divergence(classes, temperature):
    teacher, _ = _case(classes, seed=1)
    student, _ = _case(classes, seed=2)
    expected = _tempered_kl(teacher, student, temperature)
    actual = losses.kl_divergence(_f32(teacher), _f32(student), temperature)
    np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_kl_divergence_is_zero_for_equal_outputs_alone():
    teacher, _ = _case(seed=1)
    # Logits that differ by a constant mean the same probabilities.
    same = losses.kl_divergence(_f32(teacher), _f32(teacher + 5.0), 2.0).numpy()
    np.testing.assert_allclose(same, 0, atol=1e-5)
    for seed in range(20):
        student, _ = _case(seed=seed + 10)
        assert losses.kl_divergence(_f32(teacher), _f32(student), 2.0).numpy().min() > 1e-3


def test_kl_divergence_is_not_symmetric_and_the_teacher_comes_first():
    sure, unsure = _f32([[9.0, 0.0]]), _f32([[0.0, 0.0]])
    of_sure_teacher = losses.kl_divergence(sure, unsure, 1.0).numpy()[0]
    assert of_sure_teacher == pytest.approx(np.log(2), abs=2e-3)
    assert losses.kl_divergence(unsure, sure, 1.0).numpy()[0] > 3


def test_temperature_squared_keeps_the_gradient_as_temperature_grows():
    """For T far above the logits, T^2 KL tends to the variance of z_T - z_S over 2."""
    teacher, _ = _case(scale=0.5, seed=1)
    student, _ = _case(scale=0.5, seed=2)
    limit = (teacher - student).var(axis=1) / 2
    actual = losses.kl_divergence(tf.constant(teacher), tf.constant(student), 500.0)
    np.testing.assert_allclose(actual, limit, rtol=0.01)


def test_feature_distance_is_half_the_squared_distance_of_unit_vectors():
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 16, 7))
    units = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ours, theirs)]
    expected = 0.5 * ((units[0] - units[1]) ** 2).sum(axis=1)
    actual = losses.feature_distance(_f32(ours), _f32(theirs))
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)
    scaled = losses.feature_distance(_f32(300 * ours), _f32(0.02 * theirs))
    np.testing.assert_allclose(scaled, expected, rtol=1e-5, atol=1e-6)


def test_feature_distance_runs_from_0_to_2():
    towards = _f32([[3.0, -4.0]])
    for factor, expected in ((2.0, 0.0), (-0.1, 2.0)):
        actual = losses.feature_distance(factor * towards, towards).numpy()[0]
        assert actual == pytest.approx(expected, abs=1e-6)
    across = losses.feature_distance(_f32([[4.0, 3.0]]), towards).numpy()[0]
    assert across == pytest.approx(1.0, abs=1e-6)


def test_a_zero_feature_vector_is_no_division_by_zero():
    projected = tf.Variable(tf.zeros([1, 4]))
    with tf.GradientTape() as tape:
        distance = losses.feature_distance(projected, tf.ones([1, 4]))
    assert distance.numpy()[0] == 1.0
    assert np.isfinite(tape.gradient(distance, projected).numpy()).all()


@pytest.mark.parametrize("size", [1e2, 1e4])
def test_large_logits_stay_finite_and_right(size):
    logits = size * np.array([[1.0, -1.0, 0.0], [0.0, 1.0, -1.0], [-1.0, 0.0, 1.0]])
    labels = np.array([0, 0, 0])
    counts = np.array([1000, 10, 1])
    rates = losses.smoothing_rates(counts, 0.2, 0.1)
    reference = log_softmax(logits, axis=1)
    pairs = {
        "cross_entropy": (losses.cross_entropy(_f32(logits), labels), _of_label(reference, labels)),
        "balanced_softmax": (
            losses.balanced_softmax(_f32(logits), labels, counts),
            _of_label(log_softmax(logits + np.log(counts), axis=1), labels),
        ),
        "label_aware_smoothing": (
            losses.label_aware_smoothing(_f32(logits), labels, rates),
            _smooth(logits, labels, rates),
        ),
        "kl_divergence": (
            losses.kl_divergence(_f32(logits), _f32(-logits), 2.0),
            4.0
            * (
                softmax(logits / 2, axis=1)
                * (log_softmax(logits / 2, axis=1) - log_softmax(-logits / 2, axis=1))
            ).sum(axis=1),
        ),
    }
    for name, (actual, expected) in pairs.items():
        np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-4, err_msg=name)


def _functions_of_logits():
    teacher, _ = _case(seed=3, examples=4)
    _, labels = _case(seed=4, examples=4)
    rates = losses.smoothing_rates(COUNTS, 0.36, 0.08)
    return {
        "balanced_softmax": lambda z: losses.balanced_softmax(z, labels, COUNTS),
        "logit_adjustment": lambda z: losses.logit_adjustment(z, labels, COUNTS, 1.7),
        "label_aware_smoothing": lambda z: losses.label_aware_smoothing(z, labels, rates),
        "kl_divergence": lambda z: losses.kl_divergence(tf.constant(teacher), z, 2.0),
        "feature_distance": lambda z: losses.feature_distance(z, tf.constant(teacher)),
    }


@pytest.mark.parametrize("name", list(_functions_of_logits()))
def test_gradients_by_finite_differences(name):
    function = _functions_of_logits()[name]
    logits, _ = _case(seed=5, examples=4)
    theoretical, numerical = tf.test.compute_gradient(function, [tf.constant(logits)], delta=1e-5)
    np.testing.assert_allclose(theoretical[0], numerical[0], atol=1e-6)
    assert np.abs(theoretical[0]).max() > 1e-3

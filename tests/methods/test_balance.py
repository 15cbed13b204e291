import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit
from scipy.stats import entropy as scipy_entropy

from candle_tf.methods import losses
from candle_tf.methods.balance import (
    BalanceInputs,
    Balancer,
    TotalLoss,
    balance_without_adversary,
    build_total_loss,
    entropy,
    uniform_prediction_losses,
)
from candle_tf.methods.settings import BalanceSettings


def _lambdas(balancer: Balancer, steps: int = 20) -> np.ndarray:
    return np.array([balancer(tf.constant(step, tf.int64)).numpy() for step in range(steps)])


def test_lambda_starts_near_one_half_inside_0_and_1():
    lambdas = _lambdas(Balancer())
    assert lambdas.dtype == np.float32
    assert lambdas.shape == (20,)
    assert np.abs(lambdas - 0.5).max() < 0.1


def test_noise_is_a_function_of_seed_and_step():
    first = _lambdas(Balancer(3))
    np.testing.assert_array_equal(first, _lambdas(Balancer(3)))
    assert len(set(first.tolist())) == len(first)
    # The same weights under another seed get other noise.
    other = Balancer(4)
    other.set_weights(Balancer(3).get_weights())
    assert not np.isclose(first, _lambdas(other), atol=1e-7).any()


def test_each_seed_has_initial_weights_of_its_own():
    first, same, other = (Balancer(seed).get_weights() for seed in (3, 3, 4))
    for one, again in zip(first, same, strict=True):
        np.testing.assert_array_equal(one, again)
    kernels = [place for place, value in enumerate(first) if value.ndim == 2]
    assert len(kernels) == 2
    assert not any(np.isclose(first[place], other[place], atol=1e-7).any() for place in kernels)


def test_entropy_equals_scipys():
    probabilities = np.linspace(0.001, 0.999, 41)
    expected = scipy_entropy(np.stack([probabilities, 1 - probabilities]))
    np.testing.assert_allclose(entropy(tf.constant(probabilities)), expected, rtol=1e-9)
    assert entropy(tf.constant(0.5)).numpy() == pytest.approx(np.log(2))


def test_entropy_is_finite_at_its_ends():
    ends = tf.Variable([0.0, 1.0, 1e-30, np.nextafter(np.float32(1), np.float32(0))])
    with tf.GradientTape() as tape:
        values = entropy(ends)
    np.testing.assert_allclose(values, 0, atol=1e-5)
    assert np.isfinite(tape.gradient(values, ends).numpy()).all()


def test_plain_total_loss_is_the_papers():
    for lam in (0.0, 0.3, 1.0):
        actual = TotalLoss()(tf.constant(5.0), tf.constant(0.5), tf.constant(lam)).numpy()
        assert actual == pytest.approx(lam * 5.0 + (1 - lam) * 0.5, rel=1e-6)


def test_total_loss_with_references_and_entropy():
    total_loss = TotalLoss(kl_reference=4.0, fs_reference=0.8, entropy_weight=0.2)
    lam = 0.25
    actual = total_loss(tf.constant(3.0), tf.constant(0.6), tf.constant(lam)).numpy()
    entropy_term = -0.2 * (lam * np.log(lam) + (1 - lam) * np.log(1 - lam))
    assert actual == pytest.approx(0.25 * 3 / 4 + 0.75 * 0.6 / 0.8 + entropy_term, rel=1e-6)


def _maximize(total_loss: TotalLoss, kl: float, fs: float, steps: int = 400) -> float:
    """The mean lambda a balancer ends at when both losses stay as they are."""
    balancer = Balancer()
    optimizer = tf.keras.optimizers.Adam(0.01, jit_compile=False)

    @tf.function
    def maximize(step: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            value = total_loss(tf.constant(kl), tf.constant(fs), balancer(step))
        gradients = tape.gradient(value, balancer.trainable_variables)
        pairs = zip([-g for g in gradients], balancer.trainable_variables, strict=True)
        optimizer.apply_gradients(pairs)

    for step in range(steps):
        maximize(tf.constant(step, tf.int64))
    return float(_lambdas(balancer).mean())


@pytest.mark.parametrize(("kl", "fs"), [(3.0, 0.9), (2.4, 0.84)])
def test_entropy_gives_the_adversary_an_inner_maximum(kl, fs):
    """The maximum is at sigmoid((a - b) / tau) for the relative losses a and b."""
    total_loss = TotalLoss(kl_reference=4.0, fs_reference=1.0, entropy_weight=0.2)
    best = expit((kl / 4.0 - fs / 1.0) / 0.2)
    assert 0.05 < best < 0.45
    assert _maximize(total_loss, kl, fs) == pytest.approx(best, abs=0.02)

    grid = np.linspace(0.001, 0.999, 999).astype(np.float32)
    values = total_loss(tf.constant(kl), tf.constant(fs), tf.constant(grid)).numpy()
    assert grid[values.argmax()] == pytest.approx(best, abs=0.002)


def test_the_plain_adversary_runs_to_an_end():
    assert _maximize(TotalLoss(), kl=3.0, fs=0.9) > 0.99
    assert _maximize(TotalLoss(), kl=0.9, fs=3.0) < 0.01


@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_uniform_prediction_losses_are_those_of_constant_logits(temperature):
    logits = np.random.default_rng(0).normal(0, 4, (64, 6)).astype(np.float32)
    kl, fs = uniform_prediction_losses(np.array_split(logits, 3), temperature)

    powers = np.exp(logits.astype(np.float64) / temperature)
    p = powers / powers.sum(axis=1, keepdims=True)
    entropies = -(p * np.log(p)).sum(axis=1)
    assert kl == pytest.approx(temperature**2 * (np.log(6) - entropies).mean(), rel=1e-9)

    student = tf.fill([64, 6], 0.7)
    of_student = tf.reduce_mean(losses.kl_divergence(tf.constant(logits), student, temperature))
    assert kl == pytest.approx(float(of_student), rel=1e-5)
    # A constant student's features have no cosine with centred ones, on average.
    assert fs == 1.0


def test_uniform_prediction_losses_take_half_precision_and_large_logits():
    logits = np.array([[30000.0, -30000.0, 0.0]], np.float16)
    kl, _ = uniform_prediction_losses([logits], 2.0)
    assert kl == pytest.approx(4 * np.log(3), rel=1e-9)


@pytest.mark.parametrize(
    ("balance", "expected"),
    [
        ("plain", lambda kl: TotalLoss()),  # noqa: ARG005
        ("fixed", lambda kl: TotalLoss()),  # noqa: ARG005
        ("schedule", lambda kl: TotalLoss()),  # noqa: ARG005
        ("adversarial", lambda kl: TotalLoss(entropy_weight=0.3 * kl)),
        ("relative", lambda kl: TotalLoss(kl, 2.5, 0.3)),
    ],
)
def test_each_balance_is_a_total_loss_in_units_of_the_baseline(balance, expected):
    logits = np.random.default_rng(4).normal(size=(6, 3)).astype(np.float32)
    settings = BalanceSettings(balance=balance, balance_entropy=0.3, temperature=3.0)
    kl, fs = uniform_prediction_losses([logits], 3.0)
    assert fs == 1.0
    # A feature loss in nats has another reference than the cosine.
    inputs = BalanceInputs(lambda: [logits], 2.5, np.array([3, 2, 1]), "instance")
    assert build_total_loss(settings, inputs) == expected(kl)


def test_a_schedule_goes_along_burns_cosine():
    settings = BalanceSettings(balance="schedule", first_lambda=0.1, last_lambda=0.3)
    balance = balance_without_adversary(settings, steps=40)
    found = np.array([float(balance(tf.constant(step, tf.int64))) for step in range(45)])
    t = np.minimum(np.arange(45) / 40, 1.0)
    wanted = 0.3 - (0.3 - 0.1) * (np.cos(np.pi * t) + 1) / 2
    np.testing.assert_allclose(found, wanted, rtol=1e-6)
    assert found[0] == pytest.approx(0.1)
    assert found[40] == pytest.approx(0.3)
    assert (np.diff(found[:41]) > 0).all()


def test_only_adversaries_have_variables():
    for balance in ("fixed", "schedule"):
        assert balance_without_adversary(BalanceSettings(balance=balance), 10) is not None
    for balance in ("adversarial", "relative", "plain", "class_adversarial"):
        assert balance_without_adversary(BalanceSettings(balance=balance), 10) is None

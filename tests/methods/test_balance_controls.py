"""What stands in an adversary's place."""

import numpy as np
import pytest
import tensorflow as tf
from scipy.special import expit, logit

from candle_tf.errors import UserError
from candle_tf.methods.balance import TotalLoss
from candle_tf.methods.balance_controls import ClosedFormBalancer, permute_sizes
from candle_tf.methods.class_balance import class_sizes
from candle_tf.methods.settings import BalanceSettings
from tests.methods.test_class_balance import build_class_total_loss

COUNTS = np.array([400, 100, 90, 20, 5, 4])


def _call(total_loss, balancer, step, kl, fs, labels, labelled=None):
    return total_loss.balance(
        balancer,
        tf.constant(kl, tf.float32),
        tf.constant(fs, tf.float32),
        tf.constant(labels),
        tf.constant(step, tf.int64),
        labelled,
    )


def test_a_replay_is_the_recorded_lambda_stretched_over_the_steps():
    lambdas = np.array([0.1, 0.2, 0.7])
    replay = TotalLoss().build_replay(lambdas[:, np.newaxis], steps=6)
    found = [float(replay(tf.constant(step, tf.int64))) for step in range(8)]
    np.testing.assert_allclose(found, [0.1, 0.1, 0.2, 0.2, 0.7, 0.7, 0.7, 0.7], rtol=1e-6)


def test_a_replay_of_classes_is_linear_in_logits_between_the_recorded_sizes():
    total_loss = build_class_total_loss(COUNTS, balance_prior=0.3)
    lambdas = np.array([[0.2, 0.5, 0.9], [0.4, 0.6, 0.1]])
    replay = total_loss.build_replay(lambdas, steps=2)
    labels = np.arange(6)
    for step in range(2):
        expected = expit(np.interp(class_sizes(COUNTS), [0, 0.5, 1], logit(lambdas[step])))
        logs = _call(total_loss, replay, step, np.ones(6), np.ones(6), labels)
        assert float(logs["lambda"]) == pytest.approx(expected.mean(), rel=1e-5)
        for place, name in enumerate(total_loss.lambda_columns):
            assert float(logs[name]) == pytest.approx(lambdas[step, place], rel=1e-5)


def test_the_closed_form_is_the_best_lambda_of_what_was_seen_before():
    rng = np.random.default_rng(0)
    total_loss = build_class_total_loss(
        COUNTS, balance_closed_form=True, balance_tau=0.4, balance_prior=0.3
    )
    balancer = total_loss.build_balancer(seed=0)
    assert isinstance(balancer, ClosedFormBalancer)
    assert not balancer.trainable_variables
    thirds = np.minimum((class_sizes(COUNTS) * 3).astype(int), 2)
    share, excess = np.zeros(3), np.zeros(3)
    for step in range(30):
        # Without frequent classes at first, whose lambda is lambda_0 until they come.
        labels = rng.integers(3 if step < 3 else 0, 6, 8)
        kl, fs = rng.gamma(2, 1, 8), rng.gamma(2, 0.5, 8)
        labelled = np.arange(8) < 6
        logs = _call(total_loss, balancer, step, kl, fs, labels, labelled)
        best = expit(logit(0.3) + np.divide(excess, share, np.zeros(3), where=share > 0) / 0.4)
        lam = np.where(labelled, best[thirds[labels]], 0.3)
        assert float(logs["lambda"]) == pytest.approx(lam.mean(), rel=1e-4)
        regret = kl / total_loss.kl_reference - fs / total_loss.fs_reference
        for third in range(3):
            inside = (thirds[labels] == third) & labelled
            share[third] = 0.99 * share[third] + inside.sum() / 8
            excess[third] = 0.99 * excess[third] + regret[inside].sum() / 8
    assert np.ptp(best) > 0.01


def test_no_gradient_goes_through_the_closed_form():
    total_loss = build_class_total_loss(COUNTS, balance_closed_form=True)
    balancer = total_loss.build_balancer(seed=0)
    labels = np.arange(6)
    _call(total_loss, balancer, 0, np.full(6, 3.0), np.full(6, 0.2), labels)
    kl = tf.Variable(np.full(6, 2.0), dtype=tf.float32)
    with tf.GradientTape() as tape:
        logs = total_loss.balance(balancer, kl, tf.ones(6), tf.constant(labels), tf.constant(1))
    lam = np.array([float(logs[name]) for name in total_loss.lambda_columns])
    thirds = np.minimum((class_sizes(COUNTS) * 3).astype(int), 2)
    weights = COUNTS**-0.5
    expected = lam[thirds] * weights / weights.sum() / total_loss.kl_reference
    np.testing.assert_allclose(tape.gradient(logs["objective"], kl), expected, rtol=1e-4)


def test_permuted_sizes_are_of_other_classes_and_weights_are_not():
    sizes = np.linspace(0, 1, 7)
    for seed in range(20):
        permuted = permute_sizes(sizes, seed)
        np.testing.assert_array_equal(np.sort(permuted), sizes)
        assert (permuted != sizes).all()
    assert not np.array_equal(permute_sizes(sizes, 0), permute_sizes(sizes, 1))
    np.testing.assert_array_equal(permute_sizes(np.array([0.0]), 0), [0.0])

    plain, permuted = (
        build_class_total_loss(COUNTS, balance_permute_sizes=flag) for flag in (False, True)
    )
    np.testing.assert_array_equal(permuted.sizes, permute_sizes(plain.sizes, 0))
    np.testing.assert_array_equal(permuted.weights, plain.weights)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"balance_closed_form": True}, "--balance_closed_form contradicts --balance=adversarial"),
        (
            {"balance": "fixed", "balance_permute_sizes": True},
            "--balance_permute_sizes contradicts --balance=fixed",
        ),
        (
            {"balance": "schedule", "balance_replay": "runs/a"},
            "--balance_replay=runs/a contradicts --balance=schedule",
        ),
        (
            {
                "balance": "class_adversarial",
                "balance_closed_form": True,
                "balance_replay": "runs/a",
            },
            "--balance_replay=runs/a contradicts --balance_closed_form",
        ),
    ],
)
def test_controls_that_would_do_nothing_are_refused(settings, said):
    with pytest.raises(UserError, match=said):
        BalanceSettings(**settings)

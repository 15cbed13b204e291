import numpy as np
import pytest
from scipy.special import expit, logit

from candle_tf.methods.balance_controls import DECAY, THIRDS
from candle_tf.reporting import adversary
from candle_tf.reporting.adversary import GROUPS, adversary_figures

TAU, PRIOR, STEPS = 0.25, 0.4, 400


def _steps(excess: dict[str, float], lambdas: dict[str, np.ndarray], shares: dict[str, float]):
    """Columns of a training in which k - f of a group is constant but for the batch's noise."""
    rng = np.random.default_rng(0)
    steps = {}
    for group in GROUPS:
        share = rng.binomial(64, shares[group], STEPS) / 64
        steps[f"share_{group}"] = share
        steps[f"lambda_{group}"] = lambdas[group]
        steps[f"lambda_sum_{group}"] = share * lambdas[group]
        steps[f"excess_{group}"] = share * (excess[group] + rng.normal(0, 0.02, STEPS))
    return steps


EXCESS = {"rare": 0.2, "medium": 0.0, "frequent": -0.1}
SHARES = {"rare": 0.1, "medium": 0.5, "frequent": 0.4}


def _best(group: str) -> float:
    return float(expit(logit(PRIOR) + EXCESS[group] / TAU))


def test_an_adversary_at_its_best_has_no_gap():
    at_best = {group: np.full(STEPS, _best(group)) for group in GROUPS}
    found = adversary_figures(_steps(EXCESS, at_best, SHARES), tau=TAU, prior=PRIOR)
    assert found.gap < 0.01
    assert found.rare_range == pytest.approx(0)
    assert found.difference == pytest.approx(_best("frequent") - _best("rare"))
    assert (found.lowest, found.highest) == pytest.approx((_best("frequent"), _best("rare")))


def test_a_gap_is_the_distance_from_the_best_lambda_after_the_first_tenth():
    # Far off in the first tenth alone; the running means forget it.
    start = np.arange(STEPS) < STEPS // 10
    off = {"rare": 0.1, "medium": -0.1, "frequent": 0.1}
    lambdas = {g: np.where(start, 0.99, _best(g) + off[g]) for g in GROUPS}
    found = adversary_figures(_steps(EXCESS, lambdas, SHARES), tau=TAU, prior=PRIOR)
    assert 0.09 < found.gap < 0.2
    assert found.highest == pytest.approx(_best("rare") + 0.1)
    assert found.rare_range == pytest.approx(0.99 - _best("rare") - 0.1)


def test_a_group_without_images_counts_for_nothing():
    lambdas = {group: np.full(STEPS, _best(group)) for group in GROUPS}
    lambdas["rare"] = np.full(STEPS, 0.99)
    shares = {**SHARES, "rare": 0.0}
    found = adversary_figures(_steps(EXCESS, lambdas, shares), tau=TAU, prior=PRIOR)
    assert found.gap < 0.01


def test_runs_that_do_not_log_it_have_no_figures():
    assert adversary_figures({"lambda": np.ones(9)}, tau=TAU, prior=PRIOR) is None


def test_it_measures_with_the_groups_and_running_means_of_the_closed_form():
    assert (len(adversary.GROUPS), adversary._DECAY) == (THIRDS, DECAY)

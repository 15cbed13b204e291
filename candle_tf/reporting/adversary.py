"""Whether a class-conditional adversary is well-posed and moves, from a run's steps.csv.

figures = adversary_figures(run.steps, tau=0.25, prior=0.5)
figures.gap                             # mean |lambda - best lambda| after a tenth of the steps

The best lambda of a group of classes is known (`methods.class_balance`):
sigmoid(logit(lambda_0) + E[k - f] / tau), with the losses k and f in their units. The mean of k - f
is that of the steps before, with weights that fall by a hundredth from step to step, as a batch
has few images of a group.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

# Classes by thirds of the range of s, the size of a class: see `methods.class_balance`.
GROUPS = ("rare", "medium", "frequent")
_DECAY = 0.99


@dataclass(frozen=True)
class AdversaryFigures:
    """What is asked of an adversary that sees the class.

    Attributes:
        gap: mean of |lambda - best lambda| over the groups and the steps after the first tenth, of
            groups that have images.
        lowest, highest: lambda of any group in these steps.
        rare_range, frequent_range: of lambda over the whole training, between means of tenths.
        difference: lambda of frequent minus that of rare classes, in the last tenth.
    """

    gap: float
    lowest: float
    highest: float
    rare_range: float
    frequent_range: float
    difference: float


def adversary_figures(
    steps: Mapping[str, np.ndarray], *, tau: float, prior: float
) -> AdversaryFigures | None:
    """The figures of a run; None where its steps do not have them.

    Args:
        steps: columns of steps.csv, float `[S]`: "lambda_<group>", and sums over the images of a
            group in units of a batch: "share_<group>", "lambda_sum_<group>", "excess_<group>".
        tau: --balance_tau.
        prior: --balance_prior, lambda_0.
    """
    if any(f"excess_{group}" not in steps for group in GROUPS):
        return None
    after = len(steps["lambda_rare"]) // 10
    gaps = [_gaps(steps, group, tau, prior)[after:] for group in GROUPS]
    lambdas = np.array([steps[f"lambda_{group}"] for group in GROUPS])
    rare, frequent = (_tenths(steps[f"lambda_{group}"]) for group in ("rare", "frequent"))
    return AdversaryFigures(
        gap=float(np.nanmean(np.concatenate(gaps))),
        lowest=float(lambdas[:, after:].min()),
        highest=float(lambdas[:, after:].max()),
        rare_range=float(np.ptp(rare)),
        frequent_range=float(np.ptp(frequent)),
        difference=float(frequent[-1] - rare[-1]),
    )


def _gaps(steps: Mapping[str, np.ndarray], group: str, tau: float, prior: float) -> np.ndarray:
    """|lambda - best lambda| of a group, float `[S]`; nan before its first image."""
    share = _running(steps[f"share_{group}"])
    share = np.where(share > 0, share, np.nan)
    lam = _running(steps[f"lambda_sum_{group}"]) / share
    excess = _running(steps[f"excess_{group}"]) / share
    best = 1 / (1 + np.exp(-(np.log(prior / (1 - prior)) + excess / tau)))
    return np.abs(lam - best)


def _running(values: np.ndarray) -> np.ndarray:
    """Sums of the values so far, each weighted by `_DECAY` to the power of its age."""
    sums, total = np.empty(len(values)), 0.0
    for place, value in enumerate(values):
        total = _DECAY * total + value
        sums[place] = total
    return sums


def _tenths(values: np.ndarray) -> np.ndarray:
    return np.array([part.mean() for part in np.array_split(values, 10) if len(part)])

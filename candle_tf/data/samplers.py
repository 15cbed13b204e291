"""The order of the training images in an epoch, and how often each occurs.

    index = epoch_index("class_balanced", labels, seed=0, epoch=3, epochs=100)     # int64 [N]
    views = 3 + occurrences(index)       # a repeated image gets another view

An epoch always has N positions. Its order is a function of (seed, epoch), so a resumed run has the
same order as an uninterrupted one. The samplers are those of Kang et al., "Decoupling
Representation and Classifier" (ICLR 2020), eq. 1-2. Deferred ones begin late, as the re-weighting
of LDAM-DRW (Cao et al., NeurIPS 2019) does.
"""

from collections.abc import Callable

import numpy as np

from candle_tf.registry import Registry


def _power(exponent: float) -> "Sampler":
    """Probabilities n_c^q / sum of n^q; 0 for classes without images."""

    def probabilities(counts: np.ndarray, progress: float) -> np.ndarray:  # noqa: ARG001
        weights = np.where(counts > 0, counts**exponent, 0.0)
        return weights / weights.sum()

    return probabilities


def _progressive(counts: np.ndarray, progress: float) -> np.ndarray:
    instance, balanced = SAMPLERS["instance"], SAMPLERS["class_balanced"]
    return (1.0 - progress) * instance(counts, progress) + progress * balanced(counts, progress)


# (images of each class float64 [C], fraction of the epochs done) -> probability of each class [C].
# To add a sampler, give it a line at the end: an order of lines is an order of random numbers.
Sampler = Callable[[np.ndarray, float], np.ndarray]
SAMPLERS: Registry[Sampler] = Registry(
    {
        "instance": _power(1.0),
        "class_balanced": _power(0.0),
        "square_root": _power(0.5),
        "progressive": _progressive,
        "deferred_square_root": _power(0.5),
        "deferred_class_balanced": _power(0.0),
    }
)
# The sampler that each of these is from a fraction of the epochs on; "instance" before.
DEFERRED = {"deferred_square_root": "square_root", "deferred_class_balanced": "class_balanced"}


def sampler_at(sampler: str, epoch: int, epochs: int, start: float = 0.5) -> str:
    """The sampler of an epoch, never a deferred one.

    Args:
        sampler: one of `SAMPLERS`.
        epoch: from 0.
        epochs: total epochs.
        start: fraction of the epochs before a deferred sampler begins, in [0, 1].
    """
    if sampler not in DEFERRED:
        return sampler
    return DEFERRED[sampler] if epoch >= start * epochs else "instance"


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The order of an epoch: a permutation of 0..examples-1, int64, seeded by (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(examples)


def class_probabilities(
    sampler: str, counts: np.ndarray, epoch: int = 0, epochs: int = 1, start: float = 0.5
) -> np.ndarray:
    """The probability of each class at a position of an epoch.

    Args:
        sampler: one of `SAMPLERS`. Class c has n_c^q / sum of n^q with "instance" (q = 1),
            "class_balanced" (q = 0) and "square_root" (q = 1/2); "progressive" goes from instance
            at epoch 0 towards class-balanced at `epochs`, linearly.
        counts: images of each class, int [C]; a class without images is never sampled.
        epoch, epochs: for "progressive" and deferred samplers.
        start: of deferred samplers, see `sampler_at`.

    Returns:
        float64 [C], sums to 1.
    """
    if sampler not in SAMPLERS:
        raise ValueError(f"unknown sampler {sampler!r}")
    sampler = sampler_at(sampler, epoch, epochs, start)
    return SAMPLERS[sampler](np.asarray(counts, np.float64), epoch / epochs)


def epoch_index(
    sampler: str,
    labels: np.ndarray,
    *,
    seed: int,
    epoch: int,
    epochs: int,
    start: float = 0.5,
) -> np.ndarray:
    """The examples of an epoch, in order.

    Args:
        sampler: "instance" takes every example once. The others sample a class for each position;
            all images of a class are used, in shuffled order, before one is repeated.
        labels: int [N].
        seed, epoch: the order depends on them.
        epochs: total epochs, for "progressive" and deferred samplers.
        start: of deferred samplers, see `sampler_at`.

    Returns:
        int64 [N], indices of examples, with repetitions except for "instance".
    """
    total = len(labels)
    sampler = sampler_at(sampler, epoch, epochs, start)
    if sampler == "instance":
        return epoch_order(seed, epoch, total)
    # A generator of its own, so that its random numbers differ from other uses of (seed, epoch).
    rng = np.random.default_rng([seed, epoch, 1 + list(SAMPLERS).index(sampler)])
    counts = np.bincount(labels)
    probabilities = class_probabilities(sampler, counts, epoch, epochs)
    classes = rng.choice(len(counts), size=total, p=probabilities)
    shuffled = rng.permutation(total)
    # The images of class c, shuffled, are members[starts[c] : starts[c] + counts[c]].
    members = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    starts = np.cumsum(counts) - counts
    return members[starts[classes] + occurrences(classes) % counts[classes]]


def occurrences(values: np.ndarray) -> np.ndarray:
    """How often each value occurred before: [7, 5, 7, 7] gives [0, 0, 1, 2]; int64 [N]."""
    order = np.argsort(values, kind="stable")
    ranked = np.asarray(values)[order]
    begins = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else ranked
    lengths = np.diff(np.r_[begins, len(ranked)])
    result = np.empty(len(ranked), np.int64)
    result[order] = np.arange(len(ranked)) - np.repeat(begins, lengths)
    return result

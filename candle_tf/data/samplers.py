"""In which order, and how often, an epoch shows each training image.

    index = epoch_index("class_balanced", labels, seed=0, epoch=3, epochs=100)     # int64 [N]
    views = 3 + occurrences(index)       # an image that comes up again is seen in another view

An epoch always has N places; a function of (seed, epoch), so a resumed run goes on alike. The four
samplers are those of Kang et al., "Decoupling Representation and Classifier" (ICLR 2020), eq. 1-2.
"""

import numpy as np

SAMPLERS = ("instance", "class_balanced", "square_root", "progressive")


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The order of an epoch: a permutation of 0..examples-1, int64, from (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(examples)


def class_chances(sampler: str, counts: np.ndarray, epoch: int = 0, epochs: int = 1) -> np.ndarray:
    """The chance of each class to take a place: n_c^q / sum of n^q.

    Args:
        sampler: "instance" (q = 1), "class_balanced" (q = 0), "square_root" (q = 1/2) or
            "progressive" (from instance at epoch 0 towards class-balanced at `epochs`, linearly).
        counts: images of each class, int [C]; a class without any is never drawn.
        epoch, epochs: for "progressive".

    Returns:
        float64 [C], sums to 1.
    """
    counts = np.asarray(counts, np.float64)
    if sampler == "progressive":
        part = epoch / epochs
        instance, balanced = (class_chances(name, counts) for name in SAMPLERS[:2])
        return (1.0 - part) * instance + part * balanced
    powers = {"instance": 1.0, "class_balanced": 0.0, "square_root": 0.5}
    if sampler not in powers:
        raise ValueError(f"unknown sampler {sampler!r}")
    weights = np.where(counts > 0, counts ** powers[sampler], 0.0)
    return weights / weights.sum()


def epoch_index(
    sampler: str, labels: np.ndarray, *, seed: int, epoch: int, epochs: int
) -> np.ndarray:
    """The examples of an epoch, in order.

    Args:
        sampler: "instance" shows every example once. The others draw a class for each place; a
            class shows all of its images, shuffled, before it shows one again.
        labels: int [N].
        seed, epoch: what the order depends on.
        epochs: epochs in all, for "progressive".

    Returns:
        int64 [N], examples, with repetitions except for "instance".
    """
    total = len(labels)
    if sampler == "instance":
        return epoch_order(seed, epoch, total)
    # A generator of its own, so that no sampler's draws are those of another use of (seed, epoch).
    rng = np.random.default_rng([seed, epoch, 1 + SAMPLERS.index(sampler)])
    counts = np.bincount(labels)
    chances = class_chances(sampler, counts, epoch, epochs)
    classes = rng.choice(len(counts), size=total, p=chances)
    shuffled = rng.permutation(total)
    # The images of class c, shuffled, are members[starts[c] : starts[c] + counts[c]].
    members = shuffled[np.argsort(np.asarray(labels)[shuffled], kind="stable")]
    starts = np.cumsum(counts) - counts
    return members[starts[classes] + occurrences(classes) % counts[classes]]


def occurrences(values: np.ndarray) -> np.ndarray:
    """How often each value stood before its place: [7, 5, 7, 7] gives [0, 0, 1, 2]; int64 [N]."""
    order = np.argsort(values, kind="stable")
    ranked = np.asarray(values)[order]
    begins = np.flatnonzero(np.r_[True, ranked[1:] != ranked[:-1]]) if len(ranked) else ranked
    lengths = np.diff(np.r_[begins, len(ranked)])
    result = np.empty(len(ranked), np.int64)
    result[order] = np.arange(len(ranked)) - np.repeat(begins, lengths)
    return result

"""Long-tailed class counts, and the seeded selection of images. Pure NumPy.

    counts = profile_counts("exponential", available, imbalance_factor=100)   # int64 [C]
    counts = check_counts([500, 300, 20], available, class_names)            # any other counts
    indices = select(labels, counts, seed=0)                                  # int64, sorted
    train, validation = hold_out(labels[indices], 0.1, seed=0)
    groups = shot_groups(counts)                                              # {"many": ..., ...}

The counts are those of Cao et al. 2019 (LDAM-DRW, arXiv 1906.07413), not those of the other
CIFAR-LT in use (Cui et al. 2019). The images are selected by this module's own seeded shuffle, or,
with rule="ldam", as by LDAM-DRW's published code.
"""

from collections.abc import Callable, Sequence

import numpy as np

from candle_tf.errors import UserError

# Keeps the random numbers of `hold_out` apart from those of `select`. Not 0: SeedSequence pads with
# zeros, so [seed, c, 0] is the generator of [seed, c].
_HOLD_OUT = 1
# LDAM-DRW's rand_number. Another seed would give another data set than the published one.
_LDAM_SEED = 0
# Images of a class from which `hold_out` takes any: of fewer too few would be left.
MIN_TO_HOLD_OUT = 4


def profile_counts(
    profile: str, available: np.ndarray, imbalance_factor: float, *, by_index: bool = False
) -> np.ndarray:
    """Computes how many images of each class a long-tailed training set keeps.

    With r the rank of a class by available images (descending, equal counts in class order, so
    r is the class index on a balanced set), n_max the largest available count and IF the
    imbalance factor:

    - "natural": all images; the imbalance factor has no effect.
    - "exponential": floor(n_max * IF^(-r / (C - 1))), Cao et al. 2019.
    - "step": n_max for the first half of the ranks (the middle one of an odd number included),
      floor(n_max / IF) for the rest: Buda et al. 2018 with half of the classes rare, as in
      Cao et al. 2019.

    Never more than available, and never less than one.

    Args:
        profile: One of `PROFILES`.
        available: int [C], C >= 1, available images per class, each >= 1.
        imbalance_factor: IF >= 1, the largest count over the smallest.
        by_index: Use the class index as r, as LDAM-DRW's code does. On a balanced set both agree.

    Returns:
        int64 [C].

    Raises:
        UserError: If the profile is unknown or the imbalance factor is below 1 or not finite.
    """
    if profile not in _PROFILES:
        raise UserError(f"Unknown profile {profile!r}: choose one of {', '.join(PROFILES)}.")
    if not (np.isfinite(imbalance_factor) and imbalance_factor >= 1):
        raise UserError(
            f"Imbalance factor {imbalance_factor} is not a number >= 1: it is the largest class's "
            "count over the smallest's, so 1 is balanced and 100 a usual long tail."
        )
    available = np.asarray(available, np.int64)
    if available.ndim != 1 or not available.size or available.min() < 1:
        raise ValueError(f"available must be [C] with every count >= 1, got {available!r}")
    rank = np.arange(available.size)
    if not by_index:
        rank[np.argsort(-available, kind="stable")] = np.arange(available.size)
    wanted = _floor(_PROFILES[profile](rank, int(available.max()), float(imbalance_factor)))
    return np.minimum(np.maximum(wanted, 1), available)


def _natural(rank: np.ndarray, n_max: int, imbalance_factor: float) -> np.ndarray:
    del imbalance_factor
    return np.full(rank.size, float(n_max))


def _exponential(rank: np.ndarray, n_max: int, imbalance_factor: float) -> np.ndarray:
    return n_max * imbalance_factor ** (-rank / max(rank.size - 1, 1))


def _step(rank: np.ndarray, n_max: int, imbalance_factor: float) -> np.ndarray:
    return np.where(2 * rank < rank.size, float(n_max), n_max / imbalance_factor)


_PROFILES: dict[str, Callable[[np.ndarray, int, float], np.ndarray]] = {
    "natural": _natural,
    "exponential": _exponential,
    "step": _step,
}
PROFILES = tuple(_PROFILES)


def check_counts(
    wanted: Sequence[int] | np.ndarray, available: np.ndarray, class_names: Sequence[str]
) -> np.ndarray:
    """Checks that a data set has as many images as the given class counts.

    Args:
        wanted: C counts, in the order of the classes.
        available: int [C], available images per class.
        class_names: C names, for the message.

    Returns:
        int64 [C], the counts.

    Raises:
        UserError: If there are not C counts, or a count is below 1 or above the available images.
    """
    counts = np.asarray(wanted, np.int64)
    if counts.shape != (len(class_names),):
        raise UserError(
            f"{counts.size} class counts were given, but the data set has {len(class_names)} "
            "classes: give one for each, in the order of the classes' names."
        )
    wrong = np.flatnonzero((counts < 1) | (counts > np.asarray(available)))
    if wrong.size:
        shown = ", ".join(
            f"{counts[c]} of class {class_names[c]!r}, which has {available[c]}" for c in wrong[:5]
        )
        more = f" and of {wrong.size - 5} more classes" if wrong.size > 5 else ""
        raise UserError(
            f"The class counts ask for {shown}{more}: give at least 1 and at most the number of "
            "images. To leave a class out, remove it from the data set."
        )
    return counts


def select(labels: np.ndarray, counts: np.ndarray, seed: int, rule: str = "seeded") -> np.ndarray:
    """Selects `counts[c]` images of each class c.

    - "seeded": the first ones of a seeded shuffle. The shuffle of class c depends on (seed, c)
      alone, not on other classes. With one seed a smaller selection is a subset of a larger one, so
      data sets with different imbalance factors are nested.
    - "first": the first ones. Nested too; no seed.
    - "ldam": the first ones of NumPy's legacy shuffle, seeded once with 0 and used for class after
      class, as the code of Cao et al. 2019 does. On CIFAR in its original order these are the
      images of the published CIFAR-10-LT and CIFAR-100-LT. Nested too; `seed` is not used.

    Args:
        labels: int [N], classes in [0, C). Their order within a class decides what is selected.
        counts: int [C], 0 <= counts[c] <= the number of images of class c.
        seed: >= 0, of "seeded".
        rule: One of `SELECTIONS`.

    Returns:
        int64, the selected indices, ascending.

    Raises:
        UserError: If the rule is unknown or the seed negative.
    """
    if rule not in SELECTIONS:
        raise UserError(f"Unknown selection {rule!r}: choose one of {', '.join(SELECTIONS)}.")
    counts = np.asarray(counts, np.int64)
    legacy = np.random.RandomState(_LDAM_SEED)
    chosen = []
    for c, (members, count) in enumerate(zip(_by_class(labels, counts.size), counts, strict=True)):
        if not 0 <= count <= members.size:
            raise ValueError(f"class {c} has {members.size} images, {count} were asked for")
        if rule == "seeded":
            members = _generator(seed, c).permutation(members)
        elif rule == "ldam":
            # The whole class is shuffled, as the generator's state carries over to the next.
            legacy.shuffle(members)
        chosen.append(members[:count])
    return _sort_indices(chosen)


SELECTIONS = ("seeded", "first", "ldam")


def hold_out(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Holds out a seeded fraction of every class, for validation or test.

    Of a class with n images, floor(n * fraction + 0.5) are held out, with these exceptions:

    - n <= 3: none; too few.
    - n >= 4 and fraction > 0: at least one, and never the last one.

    Args:
        labels: int [N], classes >= 0.
        fraction: In [0, 1); 0 holds nothing out.
        seed: >= 0.

    Returns:
        (kept, held): int64 indices, each ascending; together they are 0..N-1.

    Raises:
        UserError: If the fraction is outside [0, 1).
    """
    if not 0 <= fraction < 1:
        raise UserError(f"The fraction {fraction} to hold out is outside [0, 1): choose e.g. 0.1.")
    kept, held = [], []
    for c, members in enumerate(_by_class(labels)):
        n = members.size
        count = 0
        if n >= MIN_TO_HOLD_OUT and fraction > 0:
            count = int(np.clip(_floor(n * fraction + 0.5), 1, n - 1))
        shuffled = _generator(seed, c, _HOLD_OUT).permutation(members)
        held.append(shuffled[:count])
        kept.append(shuffled[count:])
    return _sort_indices(kept), _sort_indices(held)


def shot_groups(train_counts: np.ndarray) -> dict[str, np.ndarray]:
    """Groups classes by training images: many > 100, medium 20 to 100, few < 20 (Liu et al. 2019).

    Args:
        train_counts: int [C], training images per class.

    Returns:
        "many", "medium", "few" to int64 class indices, ascending, in that order. A group without
        classes is absent, as it has no accuracy.
    """
    counts = np.asarray(train_counts)
    masks = {
        "many": counts > 100,
        "medium": (counts >= 20) & (counts <= 100),
        "few": counts < 20,
    }
    return {name: np.flatnonzero(mask) for name, mask in masks.items() if mask.any()}


def _floor(values: np.ndarray | float) -> np.ndarray:
    """Floor that maps 4.999999999999999, a rounding error below 5, to 5."""
    exact = np.asarray(values, np.float64)
    return np.floor(exact * (1 + 1e-12)).astype(np.int64)


def _by_class(labels: np.ndarray, classes: int = 0) -> list[np.ndarray]:
    """Indices of each class's images, ascending; at least `classes` lists."""
    labels = np.asarray(labels, np.int64)
    sizes = np.bincount(labels, minlength=classes)
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(sizes)[:-1]) if sizes.size else []


def _generator(seed: int, *path: int) -> np.random.Generator:
    if seed < 0:
        raise UserError(f"Seed {seed} is negative: choose a whole number >= 0.")
    return np.random.default_rng([seed, *path])


def _sort_indices(groups: list[np.ndarray]) -> np.ndarray:
    return np.sort(np.concatenate([np.empty(0, np.int64), *groups]))

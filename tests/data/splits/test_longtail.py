from itertools import pairwise

import numpy as np
import pytest

from candle_tf.data.splits.longtail import (
    SELECTIONS,
    check_counts,
    hold_out,
    profile_counts,
    select,
    shot_groups,
)
from candle_tf.errors import UserError

CIFAR10 = np.full(10, 5000)
CIFAR100 = np.full(100, 500)


@pytest.mark.parametrize(
    ("available", "imbalance_factor", "total"),
    [
        (CIFAR10, 10, 20431),
        (CIFAR10, 50, 13996),
        (CIFAR10, 100, 12406),
        (CIFAR10, 200, 11203),
        (CIFAR100, 10, 19573),
        (CIFAR100, 50, 12608),
        (CIFAR100, 100, 10847),
        (CIFAR100, 200, 9502),
    ],
)
def test_exponential_totals_are_the_published_ones(available, imbalance_factor, total):
    counts = profile_counts("exponential", available, imbalance_factor)
    assert counts.sum() == total
    assert counts.dtype == np.int64
    assert counts[0] == available[0]
    assert counts[-1] == available[0] // imbalance_factor
    # On a balanced set the rank of a class is its index.
    assert np.all(np.diff(counts) <= 0)


@pytest.mark.parametrize("imbalance_factor", [3, 7, 9, 49, 100, 343, 1000])
@pytest.mark.parametrize("profile", ["exponential", "step"])
def test_rounding_errors_take_no_image_away(profile, imbalance_factor):
    # Exactly divisible: every power below is a whole number of images.
    counts = profile_counts(profile, np.full(4, imbalance_factor**3), imbalance_factor**3)
    powers = [3, 2, 1, 0] if profile == "exponential" else [3, 3, 0, 0]
    np.testing.assert_array_equal(counts, [imbalance_factor**p for p in powers])


def test_ranks_follow_the_available_counts_and_ties_the_class_order():
    counts = profile_counts("exponential", np.array([50, 400, 50, 400]), 8)
    # Ranks 2, 0, 3, 1; 400 * 8^(-r / 3) = 400, 200, 100, 50, and at most what there is.
    np.testing.assert_array_equal(counts, [50, 400, 50, 200])


def test_step_halves_the_classes():
    np.testing.assert_array_equal(profile_counts("step", CIFAR10, 100), [5000] * 5 + [50] * 5)
    # Of an odd number the middle one is full.
    np.testing.assert_array_equal(profile_counts("step", np.full(5, 30), 10), [30, 30, 30, 3, 3])
    np.testing.assert_array_equal(profile_counts("step", np.array([2, 9, 7, 8]), 3), [2, 9, 3, 8])


def test_natural_keeps_everything():
    available = np.array([3, 900, 1, 44])
    np.testing.assert_array_equal(profile_counts("natural", available, 100), available)


@pytest.mark.parametrize("profile", ["exponential", "step"])
def test_every_class_keeps_an_image(profile):
    counts = profile_counts(profile, np.array([20, 5, 5, 1]), 1000)
    assert counts.min() == 1
    assert counts.max() == 20


@pytest.mark.parametrize("profile", ["exponential", "step", "natural"])
def test_factor_one_keeps_a_balanced_set(profile):
    np.testing.assert_array_equal(profile_counts(profile, CIFAR100, 1), CIFAR100)


@pytest.mark.parametrize("imbalance_factor", [0.99, 0, -3, float("nan"), float("inf")])
def test_bad_imbalance_factors_are_refused(imbalance_factor):
    with pytest.raises(UserError, match=f"{imbalance_factor}.*>= 1"):
        profile_counts("exponential", CIFAR10, imbalance_factor)


def test_an_unknown_profile_is_refused_with_the_list():
    with pytest.raises(UserError, match=r"'exponental'.*natural, exponential, step"):
        profile_counts("exponental", CIFAR10, 10)


def test_select_takes_the_counts_and_mixes():
    labels = np.random.default_rng(1).integers(0, 3, 300)
    counts = np.array([40, 0, 7])
    indices = select(labels, counts, seed=5)
    assert indices.dtype == np.int64
    assert np.all(np.diff(indices) > 0)
    np.testing.assert_array_equal(np.bincount(labels[indices], minlength=3), counts)
    first = np.flatnonzero(labels == 0)[:40]
    assert not np.array_equal(indices[labels[indices] == 0], first)
    np.testing.assert_array_equal(indices, select(labels, counts, seed=5))
    assert not np.array_equal(indices, select(labels, counts, seed=6))


def test_larger_imbalance_is_a_subset_of_smaller():
    labels = np.tile(np.arange(10), 200)
    draws = [
        set(select(labels, profile_counts("exponential", np.full(10, 200), factor), seed=3))
        for factor in (1, 10, 50, 200)
    ]
    for larger, smaller in pairwise(draws):
        assert smaller < larger


def test_a_draw_does_not_depend_on_other_classes():
    alone = np.array([1] * 50)
    among = np.array([0] * 13 + [1] * 50 + [2] * 9)
    drawn = select(among, np.array([3, 20, 9]), seed=0)
    np.testing.assert_array_equal(
        drawn[among[drawn] == 1] - 13, select(alone, np.array([0, 20]), seed=0)
    )


def test_select_asks_for_no_more_than_there_is():
    with pytest.raises(ValueError, match="class 1 has 2"):
        select(np.array([0, 1, 1]), np.array([1, 3]), seed=0)


@pytest.mark.parametrize(
    ("n", "fraction", "held"),
    [
        (1, 0.5, 0),
        (2, 0.9, 0),
        (3, 0.9, 0),
        (4, 0.1, 1),
        (5, 0.1, 1),
        (14, 0.1, 1),
        (15, 0.1, 2),
        (50, 0.29, 15),  # 14.5, which floats put just below
        (500, 0.1, 50),
        (4, 0.99, 3),
        (500, 0.0, 0),
    ],
)
def test_hold_out_counts_by_class(n, fraction, held):
    labels = np.array([0] * n + [2] * 40)
    kept, out = hold_out(labels, fraction, seed=0)
    assert np.sum(labels[out] == 0) == held
    assert np.sum(labels[kept] == 0) == n - held
    np.testing.assert_array_equal(np.sort(np.concatenate([kept, out])), np.arange(labels.size))


def test_hold_out_is_seeded_and_ascending():
    labels = np.repeat(np.arange(4), 50)
    kept, out = hold_out(labels, 0.2, seed=1)
    assert np.all(np.diff(kept) > 0)
    assert np.all(np.diff(out) > 0)
    np.testing.assert_array_equal(out, hold_out(labels, 0.2, seed=1)[1])
    assert not np.array_equal(out, hold_out(labels, 0.2, seed=2)[1])


def test_hold_out_does_not_follow_select():
    labels = np.zeros(1000, int)
    drawn = select(labels, np.array([100]), seed=0)
    _, out = hold_out(labels, 0.1, seed=0)
    # Independent draws of 100 from 1,000 share about 10.
    assert len(set(drawn) & set(out)) < 40


@pytest.mark.parametrize("fraction", [-0.1, 1.0, 1.5, float("nan")])
def test_bad_fractions_are_refused(fraction):
    with pytest.raises(UserError, match=f"{fraction}"):
        hold_out(np.zeros(9, int), fraction, seed=0)


def test_a_negative_seed_is_refused():
    with pytest.raises(UserError, match="Seed -1"):
        select(np.zeros(9, int), np.array([3]), seed=-1)


@pytest.mark.parametrize(
    ("available", "imbalance_factor", "sizes"),
    [
        (CIFAR100, 100, {"many": 35, "medium": 35, "few": 30}),
        (CIFAR100, 50, {"many": 41, "medium": 41, "few": 18}),
        (CIFAR100, 10, {"many": 69, "medium": 31}),
    ],
)
def test_shot_groups_of_cifar100_are_the_published_ones(available, imbalance_factor, sizes):
    groups = shot_groups(profile_counts("exponential", available, imbalance_factor))
    assert {name: len(classes) for name, classes in groups.items()} == sizes


@pytest.mark.parametrize("imbalance_factor", [10, 50, 100, 200])
def test_cifar10_has_no_few_shot_group(imbalance_factor):
    assert "few" not in shot_groups(profile_counts("exponential", CIFAR10, imbalance_factor))


def test_shot_group_bounds():
    groups = shot_groups(np.array([101, 100, 20, 19, 500, 1]))
    assert {name: classes.tolist() for name, classes in groups.items()} == {
        "many": [0, 4],
        "medium": [1, 2],
        "few": [3, 5],
    }


# --- LDAM-DRW's selection, written down again from its description


def ldam_indices(targets: np.ndarray, factor: float, classes: int) -> tuple[list, list]:
    """The published procedure: counts by class index, one legacy stream over all classes."""
    largest = len(targets) / classes
    np.random.seed(0)
    chosen, counts = [], []
    for c in range(classes):
        counts.append(int(largest * (1 / factor) ** (c / (classes - 1.0))))
        members = np.where(targets == c)[0]
        np.random.shuffle(members)
        chosen.append(members[: counts[-1]])
    return chosen, counts


@pytest.mark.parametrize("factor", [10, 50, 100, 200])
@pytest.mark.parametrize(("classes", "each"), [(10, 5000), (100, 500)])
def test_ldam_chooses_the_images_of_the_published_code(classes, each, factor):
    # CIFAR's own order is neither sorted nor periodic.
    targets = np.random.default_rng(classes).permutation(np.repeat(np.arange(classes), each))
    expected, expected_counts = ldam_indices(targets, factor, classes)
    counts = profile_counts("exponential", np.full(classes, each), factor, by_index=True)
    assert counts.tolist() == expected_counts
    chosen = select(targets, counts, seed=7, rule="ldam")
    np.testing.assert_array_equal(chosen, np.sort(np.concatenate(expected)))


def test_ldam_counts_go_by_class_index():
    available = np.array([50, 400, 50, 400])
    counts = profile_counts("exponential", available, 8, by_index=True)
    # 400, 200, 100, 50 in the order of the classes, and at most what there is.
    np.testing.assert_array_equal(counts, [50, 200, 50, 50])
    np.testing.assert_array_equal(
        profile_counts("step", available, 4, by_index=True), [50, 400, 50, 100]
    )


def test_first_takes_the_first_ones_whatever_the_seed():
    labels = np.array([1, 0, 1, 1, 0, 2, 0])
    for seed in (0, 5):
        chosen = select(labels, np.array([2, 1, 1]), seed, rule="first")
        np.testing.assert_array_equal(chosen, [0, 1, 4, 5])


@pytest.mark.parametrize("rule", SELECTIONS)
def test_every_selection_fills_the_counts_and_is_nested(rule):
    labels = np.random.default_rng(2).integers(0, 5, 400)
    available = np.bincount(labels)
    draws = []
    for factor in (2, 20):
        counts = profile_counts("exponential", available, factor)
        chosen = select(labels, counts, seed=1, rule=rule)
        np.testing.assert_array_equal(np.bincount(labels[chosen], minlength=5), counts)
        assert np.all(np.diff(chosen) > 0)
        draws.append(set(chosen))
    assert draws[1] < draws[0]


def test_an_unknown_selection_is_refused_with_the_list():
    with pytest.raises(UserError, match=r"'last'.*seeded, first, ldam"):
        select(np.zeros(3, int), np.array([1]), 0, rule="last")


def test_a_list_of_counts_is_taken_as_it_is():
    counts = check_counts([3, 1, 2], np.array([3, 5, 2]), ("ant", "bee", "cat"))
    assert counts.tolist() == [3, 1, 2]
    assert counts.dtype == np.int64


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ([3, 1], "2 class counts.*has 3 classes"),
        ([4, 1, 2], "4 of class 'ant', which has 3:"),
        ([3, 0, 2], "0 of class 'bee'.*remove it"),
        ([9, 9, 9], "'ant'.*'bee'.*'cat'"),
    ],
)
def test_a_list_that_does_not_fit_is_refused(wanted, message):
    with pytest.raises(UserError, match=message):
        check_counts(wanted, np.array([3, 5, 2]), ("ant", "bee", "cat"))

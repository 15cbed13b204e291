"""Intervals of differences: against estimates by hand, and how often they hold the truth."""

import tracemalloc

import numpy as np
import pytest

from candle_tf.reporting.bootstrap import (
    RESAMPLES,
    ComparedImages,
    average_difference,
    paired_difference,
)


def test_the_paired_interval_covers_what_an_independent_estimate_says():
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 5, 4000)
    first, second = rng.random(4000) < 0.7, rng.random(4000) < 0.6
    found = paired_difference(first, second, labels)
    gaps = first.astype(float) - second
    per_class = [gaps[labels == c] for c in range(5)]
    mean = np.mean([g.mean() for g in per_class])
    error = np.sqrt(np.sum([g.var() / len(g) for g in per_class])) / 5
    assert found.mean == pytest.approx(mean)
    assert found.low == pytest.approx(mean - 1.96 * error, abs=0.2 * error)
    assert found.high == pytest.approx(mean + 1.96 * error, abs=0.2 * error)


def test_equal_predictions_differ_by_nothing():
    right = np.array([1, 0, 1, 1])
    found = paired_difference(right, right, [0, 0, 1, 1])
    assert (found.mean, found.low, found.high) == (0, 0, 0)


def test_images_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match="not one"):
        paired_difference([1, 0], [1], [0, 1])


@pytest.mark.parametrize("sizes", [[1] * 11 + [2] * 10 + [3] * 7 + [4] * 2, [1] * 30, [2] * 30])
def test_the_interval_holds_the_truth_where_classes_have_few_images(sizes):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(len(sizes)), sizes)
    held, trials = 0, 200
    for seed in range(trials):
        chances = rng.beta(1, 3, len(sizes))
        others = np.clip(chances + rng.normal(0, 0.2, len(sizes)), 0, 1)
        first, second = rng.random((2, len(labels))) < np.stack([chances, others])[:, labels]
        found = paired_difference(first, second, labels, resamples=300, seed=seed)
        held += found.low <= np.mean(chances - others) <= found.high
    # 95 % give or take four standard errors of the count; without a scale it is 64, 0 and 78 %.
    assert 0.89 <= held / trials <= 0.99


def differing_images(rng, images, chance):
    """Of two classifiers of which each is as often alone in being right."""
    return np.where(rng.random(images) < chance, rng.choice([-1.0, 1.0], images), 0)


@pytest.mark.parametrize(
    ("classes", "images", "chance"),
    [(5, 2, 0.3), (10, 2, 0.2), (10, 2, 0.6), (10, 3, 0.3), (30, 2, 0.2), (30, 3, 0.1)],
)
def test_intervals_of_classes_of_two_or_three_images_hold_a_difference_of_0(
    classes, images, chance
):
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(classes), images)
    held, trials = 0, 500
    for seed in range(trials):
        gaps = differing_images(rng, len(labels), chance)
        found = paired_difference(gaps, np.zeros(len(gaps)), labels, resamples=300, seed=seed)
        held += found.low <= 1e-9 and found.high >= -1e-9
        assert found.low < found.high or found.mean == 0
    # With each class's own deviations: 0.88 to 0.93 of them.
    assert 0.92 <= held / trials <= 0.97


@pytest.mark.parametrize(("of_large", "of_few"), [(0.4, 0.1), (0.1, 0.4)])
def test_classes_of_three_images_vary_as_each_other_and_not_as_large_ones(of_large, of_few):
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.repeat(np.arange(10), 30), np.repeat(np.arange(10, 30), 3)])
    chances = np.where(labels < 10, of_large, of_few)
    held, trials = 0, 300
    for seed in range(trials):
        gaps = differing_images(rng, len(labels), chances)
        found = paired_difference(gaps, np.zeros(len(gaps)), labels, resamples=300, seed=seed)
        held += found.low <= 0 <= found.high
    # With what all classes vary by, 99 and 71 %.
    assert 0.91 <= held / trials <= 0.98


def test_a_class_that_differs_in_both_images_gives_the_interval_a_width():
    labels = np.repeat(np.arange(10), 2)
    found = paired_difference(labels == 4, np.zeros(20), labels)
    assert found.mean == pytest.approx(0.1)
    # Two of 20 images: 0.1 give or take 1.96 standard errors, of which one is 0.069.
    assert found.low == pytest.approx(-0.035, abs=0.02)
    assert found.high == pytest.approx(0.235, abs=0.02)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 50])
@pytest.mark.parametrize("gap", [1.0, -1.0, 1 / 3])
def test_a_difference_in_all_images_has_an_interval_within_0_and_itself(size, gap):
    labels = np.repeat([0, 1], size)
    found = paired_difference(np.full(2 * size, gap), np.zeros(2 * size), labels)
    assert found.mean == pytest.approx(gap)
    away, near = sorted((found.low, found.high), key=abs, reverse=True)
    assert away == pytest.approx(gap)
    # By the "rule of three" 0.95 of intervals end within 3 images of the number of images.
    assert 1 - near / gap == pytest.approx(min(1, 3 / (2 * size)), abs=1 / (2 * size) + 1e-9)


@pytest.mark.parametrize("size", [1, 2, 4, 50])
def test_classes_whose_images_are_equal_give_an_interval_with_a_width(size):
    labels = np.repeat(np.arange(10), size)
    found = paired_difference(labels == 4, np.zeros(10 * size), labels)
    assert found.mean == pytest.approx(0.1)
    assert found.low < 0.1 < found.high


def test_sets_of_the_same_images_vary_together_also_in_classes_of_two_images():
    rng = np.random.default_rng(4)
    labels = np.repeat(np.arange(10), [2] * 6 + [3] * 2 + [1, 20])
    gaps, nothing = rng.normal(size=(2, len(labels))), np.zeros(len(labels))
    both = average_difference([ComparedImages(each, nothing, labels, "t") for each in gaps])
    mean = average_difference([ComparedImages(gaps.mean(axis=0), nothing, labels, "t")])
    assert (both.low, both.high) == pytest.approx((mean.low, mean.high))


@pytest.mark.parametrize(("pairs", "of_single", "of_pairs"), [(1, 0.3, 0.3), (10, 0.4, 0.05)])
def test_single_images_vary_also_where_the_classifiers_agree_on_others(pairs, of_single, of_pairs):
    """Of 12 classes with one image, and some with two; with chances that only one is right."""
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(12), np.repeat(np.arange(12, 12 + pairs), 2)])
    chances = np.where(labels < 12, of_single, of_pairs)
    held, trials = 0, 200
    for seed in range(trials):
        signs = rng.choice([-1, 1], len(labels))
        gaps = np.where(rng.random(len(labels)) < chances, signs, 0)
        found = paired_difference(gaps, np.zeros(len(gaps)), labels, resamples=300, seed=seed)
        held += found.low <= 0 <= found.high
    # With what the other classes alone vary by, these are 64 and 45 %.
    assert 0.89 <= held / trials <= 0.99


def test_the_interval_is_about_the_difference_where_single_images_are_better_than_others():
    labels = np.array([0, 1, 2, 3, 4, 5, 5, 6, 6, 7, 7, 8, 8])
    gaps = np.where(labels < 5, 1.0, 0.0)
    found = paired_difference(gaps, np.zeros(len(gaps)), labels)
    assert found.mean == pytest.approx(5 / 9)
    assert found.low < found.mean < found.high
    assert (found.low + found.high) / 2 == pytest.approx(found.mean, abs=0.02)


def test_the_scale_is_that_of_an_unbiased_variance():
    rng = np.random.default_rng(2)
    labels = np.repeat([0, 1, 2], [4, 5, 1])
    gaps = rng.normal(size=10)
    found = paired_difference(gaps, np.zeros(10), labels, resamples=40_000)
    several = [gaps[labels == c] for c in (0, 1)]
    # The one image of class 2 varies as those of the others, each about its class's mean.
    pooled = np.concatenate([(g - g.mean()) * np.sqrt(len(g) / (len(g) - 1)) for g in several])
    variance = [g.var(ddof=1) / len(g) for g in several] + [pooled.var()]
    error = np.sqrt(np.sum(variance)) / 3
    assert found.high - found.low == pytest.approx(2 * 1.96 * error, rel=0.06)


def test_large_classes_give_the_numbers_of_draws_that_are_all_made_at_once():
    rng = np.random.default_rng(3)
    sizes = (1201, 4, 999)
    labels, gaps = np.repeat([0, 1, 2], sizes), rng.normal(size=sum(sizes))
    found = paired_difference(gaps, np.zeros(len(gaps)), labels, seed=7)
    means = []
    for place, size in enumerate(sizes):
        values = gaps[labels == place]
        scaled = (values - values.mean()) * np.sqrt(size / (size - 1))
        drawn = np.random.default_rng([7, place]).integers(0, size, (RESAMPLES, size))
        means.append(values.mean() + scaled[drawn].mean(axis=1))
    low, high = np.quantile(np.mean(means, axis=0), [0.025, 0.975])
    assert (found.low, found.high) == (low, high)


def test_the_memory_does_not_grow_with_a_class():
    images = 20_000
    right, labels = np.ones(images), np.zeros(images, int)
    tracemalloc.start()
    try:
        paired_difference(right, np.zeros(images), labels)
        assert tracemalloc.get_traced_memory()[1] < 50e6
    finally:
        tracemalloc.stop()

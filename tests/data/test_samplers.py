import collections
import math

import numpy as np
import pytest

from candle_tf.data.samplers import (
    DEFERRED,
    SAMPLERS,
    class_probabilities,
    epoch_index,
    epoch_order,
    occurrences,
)

COUNTS = np.array([400, 100, 16, 4])
LABELS = np.random.default_rng(0).permutation(np.repeat(np.arange(4), COUNTS)).astype(np.int32)
TOTAL = len(LABELS)
RANDOM = list(SAMPLERS)[1:]
# A deferred one is one of these, compared below.
UNDEFERRED = [sampler for sampler in RANDOM if sampler not in DEFERRED]


def sample(sampler, seed=0, epoch=0, epochs=10, labels=LABELS):
    return epoch_index(sampler, labels, seed=seed, epoch=epoch, epochs=epochs)


@pytest.mark.parametrize(
    ("sampler", "weights"),
    [("instance", [400, 100, 16, 4]), ("class_balanced", [1, 1, 1, 1]),
     ("square_root", [20, 10, 4, 2])],
)  # fmt: skip
def test_chances_are_powers_of_the_counts(sampler, weights):
    expected = np.array(weights) / np.sum(weights)
    np.testing.assert_allclose(class_probabilities(sampler, COUNTS), expected, rtol=1e-12)


def test_progressive_goes_from_instance_to_class_balanced():
    instance, balanced = COUNTS / TOTAL, np.full(4, 1 / 4)
    for epoch in range(11):
        expected = instance + epoch / 10 * (balanced - instance)
        np.testing.assert_allclose(class_probabilities("progressive", COUNTS, epoch, 10), expected)


def test_a_class_without_images_is_never_sample():
    for sampler in SAMPLERS:
        chances = class_probabilities(sampler, np.array([5, 0, 1]), 1, 2)
        assert chances[1] == 0
        assert chances.sum() == pytest.approx(1)
    assert set(sample("class_balanced", labels=np.array([0, 2, 2]))) <= {0, 1, 2}


def test_an_unknown_sampler_is_refused():
    with pytest.raises(ValueError, match="roulette"):
        class_probabilities("roulette", COUNTS)


def test_instance_is_the_plain_order():
    np.testing.assert_array_equal(sample("instance", 3, 5), epoch_order(3, 5, TOTAL))


@pytest.mark.parametrize("sampler", RANDOM)
def test_classes_come_up_as_often_as_they_should(sampler):
    epochs = 60
    seen = np.zeros(4)
    expected, variance = np.zeros(4), np.zeros(4)
    for epoch in range(epochs):
        index = sample(sampler, epoch=epoch, epochs=epochs)
        assert index.shape == (TOTAL,)
        assert index.dtype == np.int64
        seen += np.bincount(LABELS[index], minlength=4)
        chances = class_probabilities(sampler, COUNTS, epoch, epochs)
        expected += TOTAL * chances
        variance += TOTAL * chances * (1 - chances)
    assert (np.abs(seen - expected) < 5 * np.sqrt(variance)).all()
    # Far from what the plain order would show.
    assert seen[3] > 2 * epochs * COUNTS[3]


@pytest.mark.parametrize("sampler", RANDOM)
def test_a_class_shows_all_its_images_before_it_shows_one_again(sampler):
    index = sample(sampler, epoch=5)
    for label in range(4):
        times = np.bincount(index[LABELS[index] == label], minlength=TOTAL)[label == LABELS]
        assert times.max() - times.min() <= 1
    first = index[LABELS[index] == 0][: COUNTS[0]]
    assert len(set(first)) == len(first)


@pytest.mark.parametrize("sampler", UNDEFERRED)
def test_equal_to_an_independent_writing(sampler):
    """One place after the other, with plain lists."""
    rng = np.random.default_rng([7, 3, 1 + list(SAMPLERS).index(sampler)])
    powers = {"class_balanced": [0.0] * 4, "square_root": [0.5] * 4}
    if sampler == "progressive":
        chances = [0.7 * n / TOTAL + 0.3 / 4 for n in COUNTS]
    else:
        weights = [float(n) ** q for n, q in zip(COUNTS, powers[sampler], strict=True)]
        chances = [w / math.fsum(weights) for w in weights]
    edges = np.cumsum(chances)
    classes = np.searchsorted(edges / edges[-1], rng.random(TOTAL), side="right")
    queues = {c: collections.deque() for c in range(4)}
    for example in rng.permutation(TOTAL):
        queues[int(LABELS[example])].append(int(example))
    expected = []
    for c in classes:
        expected.append(queues[int(c)][0])
        queues[int(c)].rotate(-1)
    np.testing.assert_array_equal(sample(sampler, seed=7, epoch=3), expected)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_epoch_is_a_function_of_seed_and_epoch(sampler):
    np.testing.assert_array_equal(sample(sampler, 1, 2), sample(sampler, 1, 2))
    for other in (sample(sampler, 2, 2), sample(sampler, 1, 3)):
        assert (sample(sampler, 1, 2) != other).mean() > 0.5


def test_occurrences_are_counted_in_order():
    assert occurrences(np.array([7, 5, 7, 7, 5])).tolist() == [0, 0, 1, 2, 1]
    assert occurrences(np.array([], np.int64)).tolist() == []
    values = np.random.default_rng(0).integers(0, 9, 300)
    counted: collections.Counter[int] = collections.Counter()
    for value, found in zip(values.tolist(), occurrences(values), strict=True):
        assert counted[value] == found
        counted[value] += 1


def test_a_deferred_sampler_shows_every_image_once_until_it_begins():
    later = {"deferred_square_root": "square_root", "deferred_class_balanced": "class_balanced"}
    for deferred, sampler in later.items():
        for epoch in range(10):
            index = epoch_index(deferred, LABELS, seed=1, epoch=epoch, epochs=10, start=0.7)
            expected = sample("instance" if epoch < 7 else sampler, 1, epoch)
            np.testing.assert_array_equal(index, expected)
    # From the first epoch on, or never.
    always = epoch_index("deferred_square_root", LABELS, seed=1, epoch=0, epochs=10, start=0.0)
    np.testing.assert_array_equal(always, sample("square_root", 1, 0))
    never = epoch_index("deferred_square_root", LABELS, seed=1, epoch=9, epochs=10, start=1.0)
    np.testing.assert_array_equal(never, sample("instance", 1, 9))

import numpy as np
import pytest

from candle_tf.teachers.held_out_accuracy import draw_images, held_out_accuracy, most_images

CLASSES, SIZE = 8, 64


def _clusters(counts: list[int], spread: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(len(counts)), counts)
    centers = rng.normal(size=(len(counts), SIZE))
    return centers[labels] + spread * rng.normal(size=(len(labels), SIZE)), labels


def test_features_that_tell_all_classes_are_worth_all():
    assert held_out_accuracy(*_clusters([40] * CLASSES, 0.1), seed=0) == 1.0


def test_features_that_tell_nothing_are_at_chance_although_they_can_be_learned_by_heart():
    # Fewer images than features: the classifier is right about all that it was fitted to.
    labels = np.arange(120) % CLASSES
    noise = np.random.default_rng(0).normal(size=(len(labels), 200))
    found = [held_out_accuracy(noise, labels, seed=seed) for seed in range(5)]
    assert np.mean(found) == pytest.approx(1 / CLASSES, abs=0.08)


def test_every_class_counts_alike():
    # The largest class cannot be told from the others, which are told apart.
    features, labels = _clusters([400] + [20] * 7, 0.1)
    rng = np.random.default_rng(1)
    features[labels == 0] = features[rng.integers(400, len(labels), 400)]
    found = held_out_accuracy(features, labels, seed=0)
    assert 0.5 < found < 0.95


def test_a_seed_draws_the_same_and_another_one_others():
    features, labels = _clusters([12] * CLASSES, 2.0)
    found = [held_out_accuracy(features, labels, seed=seed) for seed in (0, 0, 1, 2, 3)]
    assert found[0] == found[1]
    assert len(set(found)) > 1


def test_of_many_images_the_large_classes_are_thinned_and_the_rare_ones_kept():
    labels = np.repeat(np.arange(4), [5000, 300, 20, 3])
    chosen = draw_images(labels, seed=0, most=700)
    counts = np.bincount(labels[chosen])
    assert counts.sum() <= 700
    assert counts.tolist()[1:] == [300, 20, 3]
    assert counts[0] == 300
    np.testing.assert_array_equal(draw_images(labels, seed=0), np.arange(len(labels)))
    assert set(draw_images(labels, seed=1, most=700)) != set(chosen)


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 0, 0]])
def test_where_nothing_can_be_held_out_there_is_no_accuracy(labels):
    features = np.random.default_rng(0).normal(size=(3, 5))
    assert held_out_accuracy(features, np.array(labels), seed=0) is None


def test_fewer_images_of_more_features_take_no_more_memory():
    assert most_images(1280) == most_images(4096) == 20_000
    assert most_images(8192) == 10_000

import numpy as np
import pytest

from candle_tf.data.augment.precomputed_views import PrecomputedViews, same_for_all, views_by_class
from candle_tf.data.augment.views import Views

COUNTS = np.array([100, 50, 30, 7, 1])


def test_rare_classes_get_views_up_to_their_bound():
    np.testing.assert_array_equal(views_by_class(COUNTS, 4, tail_views=20), [4, 8, 13, 20, 20])
    np.testing.assert_array_equal(views_by_class(COUNTS, 4, tail_views=1000), [4, 8, 13, 57, 400])


@pytest.mark.parametrize("tail_views", [0, 3, 4])
def test_without_a_bound_above_all_classes_have_the_same(tail_views):
    np.testing.assert_array_equal(views_by_class(COUNTS, 4, tail_views), np.full(5, 4))


@pytest.mark.parametrize("mirror", [False, True])
def test_every_view_has_a_row_of_its_own_and_the_way_back(mirror):
    precomputed = PrecomputedViews(np.array([2, 1, 4]), mirror)
    copies = 2 if mirror else 1
    assert precomputed.total == 7 * copies
    views = precomputed.of_rows(np.arange(precomputed.total))
    np.testing.assert_array_equal(views.images, np.repeat([0, 0, 1, 2, 2, 2, 2], copies))
    np.testing.assert_array_equal(views.numbers, np.repeat([0, 1, 0, 0, 1, 2, 3], copies))
    np.testing.assert_array_equal(views.mirror, np.tile([False, True][:copies], 7))
    np.testing.assert_array_equal(precomputed.rows(views), np.arange(precomputed.total))
    part = views[3:6]
    assert len(part) == 3
    np.testing.assert_array_equal(precomputed.rows(part), [3, 4, 5])


def test_views_are_taken_in_turn_by_each_image():
    precomputed = PrecomputedViews(np.array([2, 1, 4]))
    images = np.array([2, 0, 1])
    turns = [precomputed.at_epoch(images, epoch).numbers.tolist() for epoch in range(5)]
    assert turns == [[0, 0, 0], [1, 1, 0], [2, 0, 0], [3, 1, 0], [0, 0, 0]]
    for epoch in range(5):
        fresh = Views(images, np.full(3, epoch))
        np.testing.assert_array_equal(
            precomputed.rows(fresh), precomputed.rows(precomputed.at_epoch(images, epoch))
        )


def test_the_key_tells_views_apart_and_does_not_grow():
    keys = [
        same_for_all(10, 2).key(),
        same_for_all(10, 1).key(),
        same_for_all(20, 1).key(),
        same_for_all(10, 1, mirror=True).key(),
        PrecomputedViews(np.array([1, 3] * 5)).key(),
        PrecomputedViews(np.array([3, 1] * 5)).key(),
    ]
    assert len({str(key) for key in keys}) == len(keys)
    small, large = (same_for_all(count, 2).key() for count in (10, 10**6))
    assert len(str(large)) - len(str(small)) == 2 * 5  # two counts, each of five digits more
    assert keys[0] == PrecomputedViews(np.full(10, 2, np.int32)).key()

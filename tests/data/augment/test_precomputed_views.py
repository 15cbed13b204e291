import numpy as np
import pytest

from candle_tf.data.augment.precomputed_views import FixedViews, same_for_all, views_by_class
from candle_tf.data.augment.transform import Transform

COUNTS = np.array([100, 50, 30, 7, 1])


def test_rare_classes_get_views_up_to_their_bound():
    np.testing.assert_array_equal(views_by_class(COUNTS, 4, tail_views=20), [4, 8, 13, 20, 20])
    np.testing.assert_array_equal(views_by_class(COUNTS, 4, tail_views=1000), [4, 8, 13, 57, 400])


@pytest.mark.parametrize("tail_views", [0, 3, 4])
def test_without_a_bound_above_all_classes_have_the_same(tail_views):
    np.testing.assert_array_equal(views_by_class(COUNTS, 4, tail_views), np.full(5, 4))


def test_every_view_has_a_row_of_its_own_and_the_way_back():
    views = FixedViews(Transform("pad_crop"), np.array([2, 1, 4]))
    assert views.total == 7
    images, numbers = views.of_rows(np.arange(7))
    np.testing.assert_array_equal(images, [0, 0, 1, 2, 2, 2, 2])
    np.testing.assert_array_equal(numbers, [0, 1, 0, 0, 1, 2, 3])
    np.testing.assert_array_equal(views.rows(images, numbers), np.arange(7))


def test_views_are_taken_in_turn_by_each_image():
    views = FixedViews(Transform("pad_crop"), np.array([2, 1, 4]))
    index = np.array([2, 0, 1])
    turns = [views.in_turn(index, epoch).tolist() for epoch in range(5)]
    assert turns == [[0, 0, 0], [1, 1, 0], [2, 0, 0], [3, 1, 0], [0, 0, 0]]
    for epoch in range(5):
        fresh = np.full(3, epoch)
        np.testing.assert_array_equal(
            views.rows(index, fresh), views.rows(index, views.in_turn(index, epoch))
        )


def test_the_key_tells_views_apart_and_does_not_grow():
    keys = [
        same_for_all(Transform("none"), 10, 2).key(),
        same_for_all(Transform("none"), 10, 1).key(),
        same_for_all(Transform("none"), 20, 1).key(),
        same_for_all(Transform("pad_crop"), 10, 2).key(),
        FixedViews(Transform("none"), np.array([1, 3] * 5)).key(),
        FixedViews(Transform("none"), np.array([3, 1] * 5)).key(),
    ]
    assert len({str(key) for key in keys}) == len(keys)
    small, large = (same_for_all(Transform("none"), count, 2).key() for count in (10, 10**6))
    assert len(str(large)) - len(str(small)) == 2 * 5  # two counts, each of five digits more
    assert keys[0] == FixedViews(Transform("none"), np.full(10, 2, np.int32)).key()

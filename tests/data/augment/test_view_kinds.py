import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.augment.augmentation import Augmentation, make_augmentation
from candle_tf.data.augment.crops import sample_view
from candle_tf.data.augment.precomputed_views import PrecomputedViews
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.augment.view_kinds import is_unmixed, number_of_unmixed_views, unmixed_numbers
from candle_tf.data.augment.views import Views
from candle_tf.data.pipeline import training_batches
from candle_tf.errors import UserError
from tests.data.augment.test_augmentation import COUNT, examples, render

HALF = AugmentSettings("pad_crop", mix="mixup", mix_views="half")


def test_numbers_and_counts_of_unmixed_views_agree():
    for count in range(1, 20):
        numbers = np.arange(count)
        unmixed = numbers[is_unmixed(numbers)]
        assert number_of_unmixed_views(np.array([count])) == len(unmixed) >= 1
        np.testing.assert_array_equal(unmixed_numbers(np.arange(len(unmixed))), unmixed)
    assert is_unmixed(np.arange(4000)).mean() == 0.5


def views_of_one_batch(augmentation: Augmentation, **settings) -> Views:
    """What `training_batches` asks an augmentation to draw."""
    seen: list[Views] = []

    class Recorded(Augmentation):
        def draw(self, subset, views):
            seen.append(views)
            return super().draw(subset, views)

    recorded = Recorded(augmentation.operations, augmentation.seed)
    list(training_batches(examples(), augmentation=recorded, **settings))
    (views,) = seen
    return views


def test_only_augmentations_with_kinds_of_view_begin_at_several_numbers():
    shared = {"image_size": 8, "batch_size": COUNT, "seed": 0, "first_epoch": 4, "epochs": 5}
    for settings, kinds in (
        (AugmentSettings("pad_crop"), {0}),
        (AugmentSettings("pad_crop", mix="mixup"), {0}),
        (AugmentSettings("alternating_crop_flip"), {0, 1, 2, 3}),
        (HALF, {0, 1, 2, 3}),
    ):
        augmentation = make_augmentation(settings, 0)
        assert augmentation.alternates == (len(kinds) > 1)
        views = views_of_one_batch(augmentation, **shared)
        assert set((views.numbers - 4).tolist()) == kinds
        if len(kinds) > 1:
            np.testing.assert_array_equal(views.numbers - 4, views.images % 4)


def test_precomputed_views_without_mixing_are_taken_in_turn():
    precomputed = PrecomputedViews(np.array([1, 3, 9]))
    images = np.array([0, 1, 2])
    seen = [
        precomputed.at_epoch(images, epoch, unmixed=True).numbers.tolist() for epoch in range(6)
    ]
    assert seen == [[0, 0, 0], [0, 1, 1], [0, 0, 4], [0, 1, 5], [0, 0, 8], [0, 1, 0]]


@pytest.mark.parametrize("mix", ["mixup", "cutmix"])
def test_the_number_decides_whether_a_view_is_mixed(mix):
    subset = examples()
    settings = AugmentSettings("pad_crop", mix=mix, mix_views="half")
    every, plain = AugmentSettings("pad_crop", mix=mix), AugmentSettings("pad_crop")
    for number in range(8):
        expected = plain if number % 4 < 2 else every
        np.testing.assert_allclose(
            render(subset, range(COUNT), number, settings),
            render(subset, range(COUNT), number, expected),
            atol=1e-3,
        )
    drawn = make_augmentation(settings, 3).draw(subset, Views(np.arange(4), np.arange(4)))
    assert (drawn["ratios"][:2] == 1).all()
    assert (drawn["ratios"][2:] < 1).all()


def test_what_shows_a_second_image_is_told_by_number_and_can_be_left_out():
    subset, numbers = examples(), np.arange(8)
    plain = make_augmentation(AugmentSettings("pad_crop"), 3)
    every = make_augmentation(AugmentSettings("pad_crop", mix="mixup"), 3)
    half = make_augmentation(HALF, 3)
    assert not plain.is_mixed(numbers).any()
    assert every.is_mixed(numbers).all()
    for augmentation in (plain, every, half):
        drawn = augmentation.draw(subset, Views(np.arange(8), numbers))
        ratios = drawn.get("ratios", np.ones(8))
        np.testing.assert_array_equal(augmentation.is_mixed(numbers), ratios < 1)
        assert augmentation.without_mixing() == plain


def test_crops_alternate_by_view_number():
    for number in range(6):
        numbers = [5, tf.constant(77, tf.int64), tf.constant(number, tf.int64)]
        box, flip = sample_view("alternating_crop_flip", *numbers)
        other = "pad_crop_flip" if number % 2 == 0 else "random_resized_crop_flip"
        expected, expected_flip = sample_view(other, *numbers)
        assert bool(flip) == bool(expected_flip)
        if number % 2 == 0:
            np.testing.assert_array_equal(box, expected)
    areas = []
    for key in range(200):
        box, _ = sample_view("alternating_crop_flip", 0, tf.constant(key, tf.int64), 1)
        top, left, bottom, right = box.numpy()
        assert min(top, left) >= 0
        assert max(bottom, right) <= 1 + 1e-6
        areas.append((bottom - top) * (right - left))
    # Near the whole image a box of another aspect is cut.
    assert 0.49 < min(areas) < 0.55
    assert max(areas) > 0.9


@pytest.mark.parametrize("precomputed", [None, PrecomputedViews(np.full(COUNT, 8))])
def test_the_last_epochs_are_without_mixing(precomputed):
    subset = examples()
    batches = training_batches(
        subset, image_size=8, augmentation=make_augmentation(HALF, 0), batch_size=COUNT, seed=0,
        first_epoch=0, epochs=10, precomputed=precomputed, unmixed_from=0.7,
    )  # fmt: skip
    mixed = [int((batch["ratios"].numpy() < 1).sum()) for batch in batches]
    # Each image begins with a kind of its own, so that an epoch holds all of them.
    numbers = np.arange(10)[:, np.newaxis] + np.arange(COUNT) % 4
    expected = (numbers % 4 >= 2).sum(axis=1) * (np.arange(10) < 7)
    assert mixed == expected.tolist()
    assert 0 < min(mixed[:7]) <= max(mixed) < COUNT
    resumed = training_batches(
        subset, image_size=8, augmentation=make_augmentation(HALF, 0), batch_size=COUNT, seed=0,
        first_epoch=8, epochs=10, precomputed=precomputed, unmixed_from=0.7,
    )  # fmt: skip
    for one, other in zip(list(batches)[8:], resumed, strict=True):
        np.testing.assert_array_equal(one["inputs"], other["inputs"])


def test_settings_that_contradict_each_other_are_refused():
    with pytest.raises(UserError, match="--mix_views=half contradicts --mix=none"):
        AugmentSettings(mix_views="half")
    with pytest.raises(UserError, match=r"--unmixed_from=0\.9 contradicts --mix_views=all"):
        AugmentSettings(mix="mixup", unmixed_from=0.9)
    assert (
        Config(
            mix="mixup", mix_views="half", unmixed_from=0.9, teacher_view="same"
        ).augment.unmixed_from
        == 0.9
    )

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import functools
import math

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from candle_tf.data.augment.crops import (
    CROP_ASPECT,
    LEAST_AREA,
    PAD,
    render,
    render_views,
    sample_view,
)

AUGMENTATIONS = ("none", "pad_crop", "pad_crop_flip", "random_resized_crop_flip")
RANDOM = AUGMENTATIONS[1:]
DRAWS = 1500
KEYS = np.random.default_rng(0).integers(0, 2**63 - 1, DRAWS)
WHOLE = np.array([0, 0, 1, 1], np.float32)


def draw(augmentation, seed, key, view):
    box, flip = sample_view(augmentation, seed, tf.constant(key, tf.int64), view)
    return box.numpy(), bool(flip)


@functools.lru_cache
def draws(augmentation, seed=0, view=0, least_area=LEAST_AREA):
    """Boxes [DRAWS, 4] and flips [DRAWS] of one view of the images KEYS."""
    one = functools.partial(sample_view, augmentation, seed, view=view, least_area=least_area)
    signature = (tf.TensorSpec([4], tf.float32), tf.TensorSpec([], tf.bool))
    run = tf.function(
        lambda keys: tf.map_fn(lambda key: one(key=key), keys, fn_output_signature=signature)
    )
    boxes, flips = run(tf.constant(KEYS))
    return boxes.numpy(), flips.numpy()


def noise(side=64, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)


def smooth(side=96):
    """An image without fine detail, so that its content does not depend on the resolution."""
    y, x = np.meshgrid(*[(np.arange(side) + 0.5) / side] * 2, indexing="ij")
    waves = [np.sin(3 * x + 5 * y), np.cos(7 * x - 2 * y), np.sin(6 * x * y + 1)]
    return (127.5 + 120 * np.stack(waves, axis=-1)).astype(np.uint8)


# ---- Drawing


@pytest.mark.parametrize("augmentation", RANDOM)
def test_a_view_is_the_same_whatever_was_drawn_before(augmentation):
    tf.random.set_seed(1)
    box, flip = draw(augmentation, 3, KEYS[0], 5)
    tf.random.set_seed(2)
    tf.random.uniform([7])
    draw(augmentation, 4, KEYS[1], 6)
    again, flip_again = draw(augmentation, 3, KEYS[0], 5)
    np.testing.assert_array_equal(box, again)
    assert flip == flip_again


@pytest.mark.parametrize("augmentation", RANDOM)
def test_graph_and_eager_draw_the_same(augmentation):
    boxes, flips = draws(augmentation, 1, 2)
    for i in range(5):
        box, flip = draw(augmentation, 1, KEYS[i], 2)
        # Kernels of compiled and eager arithmetic may round differently in the last place.
        np.testing.assert_allclose(box, boxes[i], atol=2e-7)
        assert flip == flips[i]


@pytest.mark.parametrize("augmentation", RANDOM)
@pytest.mark.parametrize("other", [(1, 0, 0), (0, 1, 0), (0, 0, 1)], ids=["seed", "key", "view"])
def test_another_seed_key_or_view_is_another_box(augmentation, other):
    seed, key, view = other
    first = draw(augmentation, 0, 77, 0)[0]
    second = draw(augmentation, seed, 77 + key, view)[0]
    assert np.abs(first - second).max() > 1e-3


@pytest.mark.parametrize(("seed", "view"), [(1, 0), (0, 1), (2**31 - 1, 0), (0, 10**6)])
def test_views_of_another_seed_or_number_are_independent(seed, view):
    """Offsets of 1500 images do not correlate: 5 standard deviations are 5 / sqrt(1500)."""
    first, second = draws("pad_crop")[0], draws("pad_crop", seed, view)[0]
    for axis in (0, 1):
        correlation = np.corrcoef(first[:, axis], second[:, axis])[0, 1]
        assert abs(correlation) < 5 / math.sqrt(DRAWS)


def test_none_is_the_whole_image_always():
    box, flip = draw("none", 5, 77, 3)
    np.testing.assert_array_equal(box, WHOLE)
    assert flip is False


@pytest.mark.parametrize("augmentation", ["pad_crop", "pad_crop_flip"])
def test_pad_crop_shifts_by_up_to_an_eighth_each_way(augmentation):
    boxes, _ = draws(augmentation)
    offsets = boxes[:, :2]
    np.testing.assert_allclose(boxes[:, 2:] - offsets, 1.0, atol=1e-6)
    assert PAD == 4 / 32
    assert np.abs(offsets).max() <= PAD
    # Uniform over [-PAD, PAD] in both directions: each eighth of it gets its share, within 5 sigma.
    for axis in (0, 1):
        counts, _ = np.histogram(offsets[:, axis], bins=8, range=(-PAD, PAD))
        assert counts.sum() == DRAWS
        sigma = math.sqrt(DRAWS * 1 / 8 * 7 / 8)
        assert np.abs(counts - DRAWS / 8).max() < 5 * sigma
    assert abs(np.corrcoef(offsets.T)[0, 1]) < 5 / math.sqrt(DRAWS)


@pytest.mark.parametrize("least", [0.35, 0.08])
def test_random_resized_crop_keeps_to_its_ranges(least):
    boxes, _ = draws("random_resized_crop_flip", least_area=least)
    height, width = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes.max() <= 1 + 1e-6
    aspect, area = width / height, width * height
    assert aspect.min() >= CROP_ASPECT[0] - 1e-4
    assert aspect.max() <= CROP_ASPECT[1] + 1e-4
    assert area.max() <= 1 + 1e-4
    # Clipping at the image's border takes away at most 1 - sqrt(3/4) of a side.
    whole = (height < 1 - 1e-6) & (width < 1 - 1e-6)
    assert area[whole].min() >= least - 1e-4
    assert 0.5 * DRAWS < whole.sum() < DRAWS
    # The extremes do come up.
    assert area.min() < least + 0.05
    assert area.max() > 0.9
    # Uniform between them, where nothing is clipped: below half of the area nothing is.
    below = (area < 0.5).sum()
    share = (0.5 - least) / (1 - least)
    assert abs(below - DRAWS * share) < 5 * math.sqrt(DRAWS * share * (1 - share))
    assert aspect.min() < 0.78
    assert aspect.max() > 1.28
    # Not all crops are in one corner.
    free = whole & (height < 0.8)
    places = boxes[free, 0] / (1 - height[free])
    assert abs(places.mean() - 0.5) < 5 * math.sqrt(1 / 12 / free.sum())


@pytest.mark.parametrize("augmentation", ["pad_crop_flip", "alternating_crop_flip"])
def test_other_crops_have_an_area_of_their_own(augmentation):
    for view in (0, 1):
        given = [draws(augmentation, view=view, least_area=least) for least in (0.35, 0.08)]
        np.testing.assert_array_equal(given[0][0], given[1][0])


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_half_of_the_views_are_mirrored_where_the_name_says_so(augmentation):
    flips = draws(augmentation)[1].sum()
    if augmentation.endswith("_flip"):
        assert abs(flips - DRAWS / 2) < 5 * math.sqrt(DRAWS / 4)
    else:
        assert flips == 0


def test_an_unknown_augmentation_is_refused():
    with pytest.raises(ValueError, match="mosaic"):
        draw("mosaic", 0, 1, 0)


# ---- Rendering


def render_array(image, box=WHOLE, flip=False, size=64):
    return render(tf.constant(image), tf.constant(box, tf.float32), tf.constant(flip), size).numpy()


def test_the_whole_box_at_the_same_size_is_the_image():
    image = noise()
    view = render_array(image)
    assert view.dtype == np.float32
    np.testing.assert_allclose(view, image, atol=1e-3)


def test_a_flip_mirrors_left_and_right():
    image = noise()
    np.testing.assert_allclose(render_array(image, flip=True), image[:, ::-1], atol=1e-3)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(("down", "right"), [(3, 0), (0, -5), (-8, 8), (8, -1), (-2, -7)])
def test_a_shift_by_whole_pixels_moves_the_image_and_leaves_black(down, right, flip):
    side, image = 64, noise()
    box = WHOLE + np.array([down, right, down, right], np.float32) / side
    padded = np.pad(image, ((8, 8), (8, 8), (0, 0)))
    moved = padded[8 + down : 8 + down + side, 8 + right : 8 + right + side]
    wanted = moved[:, ::-1] if flip else moved
    np.testing.assert_allclose(render_array(image, box, flip), wanted, atol=1e-2)


@pytest.mark.parametrize("size", [16, 20, 31, 48])
def test_scaling_down_agrees_with_two_other_implementations(size):
    image = noise()
    view = render_array(image, size=size)
    resized = tf.image.resize(image, [size, size], "bilinear", antialias=True)
    np.testing.assert_allclose(view, resized, atol=1e-2)
    pillow = Image.fromarray(image).resize((size, size), Image.Resampling.BILINEAR)
    # Pillow rounds to whole numbers twice, after rows and after columns.
    np.testing.assert_allclose(view, np.asarray(pillow), atol=1.01)


def test_an_inner_box_is_the_crop_resized():
    image = noise()
    box = np.array([8, 16, 40, 64], np.float32) / 64
    crop = Image.fromarray(image[8:40, 16:64])
    wanted = np.asarray(crop.resize((16, 16), Image.Resampling.BILINEAR), np.float32)
    view = render_array(image, box, size=16)
    # At the crop's edge the filter reaches beyond it, into the image.
    np.testing.assert_allclose(view[2:-2, 2:-2], wanted[2:-2, 2:-2], atol=1.01)


def test_an_image_that_is_not_square_is_cut_in_fractions_of_its_sides():
    image = noise()[:32]
    wanted = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_allclose(render_array(image, size=16), wanted, atol=1.01)


@pytest.mark.parametrize("augmentation", RANDOM)
def test_one_box_at_two_sizes_shows_the_same(augmentation):
    image = smooth()
    box, flip = draw(augmentation, 0, KEYS[3], 1)
    big, small = (render_array(image, box, flip, size) for size in (96, 32))
    reduced = big.reshape(32, 3, 32, 3, 3).mean(axis=(1, 3))
    # Where black begins, a pixel of the small view is half and half.
    difference = np.abs(reduced - small)
    assert np.median(difference) < 1.0
    assert difference.mean() < 3.0
    other = render_array(image, *draw(augmentation, 0, KEYS[4], 1), 32)
    assert np.abs(reduced - other).mean() > 2 * difference.mean()


# ---- Batches


@pytest.mark.parametrize("augmentation", AUGMENTATIONS)
def test_a_batch_is_its_single_views(augmentation):
    images = np.stack([noise(32, seed) for seed in range(5)])
    keys, numbers = KEYS[:5], np.array([0, 3, 1, 1, 9])
    batch = render_views(
        tf.constant(images),
        tf.constant(keys),
        tf.constant(numbers),
        augmentation,
        7,
        24,
    )
    assert batch.shape == (5, 24, 24, 3)
    for i in range(5):
        box, flip = draw(augmentation, 7, keys[i], numbers[i])
        np.testing.assert_allclose(batch[i], render_array(images[i], box, flip, 24), atol=1e-3)


# ---- Views of the original image

ASPECTS = (0.4, 1.0, 1.5, 3.0)


@pytest.mark.parametrize("aspect", ASPECTS)
def test_views_of_the_original_image_keep_its_proportions(aspect):
    """A box is as wide as high in the image's own pixels, up to the aspects that are drawn."""
    for augmentation in AUGMENTATIONS:
        for key in KEYS[:6]:
            box, _ = sample_view(augmentation, 0, tf.constant(key), 0, tf.constant(aspect))
            height, width = (box[2:] - box[:2]).numpy()
            ratio = width * aspect / height
            if augmentation == "random_resized_crop_flip":
                assert CROP_ASPECT[0] - 1e-4 <= ratio <= CROP_ASPECT[1] + 1e-4
                assert box.numpy().min() >= -1e-6
                assert box.numpy().max() <= 1 + 1e-6
                continue
            assert ratio == pytest.approx(1, abs=1e-4)
            shorter = max(height, width)
            assert shorter == pytest.approx(224 / 256 if augmentation == "none" else 1, abs=1e-5)


def test_crops_reach_every_part_of_the_original_image_and_the_padding():
    boxes = np.array([sample_view("pad_crop", 0, tf.constant(key), 0, tf.constant(2.0))[0]
                      for key in KEYS[:100]])  # fmt: skip
    np.testing.assert_allclose(boxes[:, 3] - boxes[:, 1], 0.5, atol=1e-6)
    # In the image's width: half an image wide, padded by an eighth of that.
    assert -PAD / 2 - 1e-6 <= boxes[:, 1].min() < -PAD / 2 + 0.05
    assert 0.5 + PAD / 2 - 0.05 < boxes[:, 1].max() <= 0.5 + PAD / 2 + 1e-6
    assert np.abs(boxes[:, 0]).max() <= PAD + 1e-6


def test_the_authors_test_transform():
    """Shorter side to 256, central 224 x 224, as Pillow does it; stretching loses little."""
    small = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
    image = Image.fromarray(small).resize((480, 320), Image.Resampling.BICUBIC)
    resized = image.resize((384, 256), Image.Resampling.BILINEAR)
    wanted = np.asarray(resized.crop((80, 16, 304, 240)), np.float32)
    stretched = np.asarray(image.resize((256, 256), Image.Resampling.BILINEAR))
    box, flip = sample_view("none", 0, tf.constant(5, tf.int64), 0, tf.constant(1.5))
    assert not flip
    assert np.abs(render_array(stretched, box, False, 224) - wanted).mean() < 1.5

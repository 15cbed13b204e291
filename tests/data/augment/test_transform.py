import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from candle_tf.data.augment.color_jitter import draw_factors, jitter
from candle_tf.data.augment.crops import render_views
from candle_tf.data.augment.mix import draw_mixtures, mix_pixels
from candle_tf.data.augment.transform import (
    Transform,
    raw_batch,
    raw_signature,
    render_batch,
    student_pixels,
)
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.pipeline import evaluation_batches
from candle_tf.data.subset import Subset

COUNT = 9
SIDE = 32
PLAIN = Transform("pad_crop_flip")
EVERYTHING = Transform("random_resized_crop_flip", color_jitter=0.4, mix="cutmix")
TRANSFORMS = [PLAIN, Transform("pad_crop", color_jitter=0.4), Transform("pad_crop", mix="mixup"),
              Transform("pad_crop", randaugment_magnitude=6.0, randaugment_layers=1),
              EVERYTHING]  # fmt: skip


def examples(uncut: bool = False, smooth: bool = False) -> Subset:
    rng = np.random.default_rng(0)
    canvas = rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    if smooth:
        small = [Image.fromarray(each[:4, :4]) for each in canvas]
        canvas = np.stack([np.asarray(each.resize((SIDE, SIDE))) for each in small])
    ids = [f"train/a/{row}.png" for row in range(COUNT)]
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    aspects = np.linspace(0.5, 2, COUNT).astype(np.float32) if uncut else None
    rows = {image_id: row for row, image_id in enumerate(ids)}
    images = ImageStore(canvas, keys, rows, "digest", aspects is not None, aspects)
    return Subset(images, np.arange(COUNT)[::-1], np.arange(COUNT, dtype=np.int32))


def seen(part, index, view, transform, size=24, seed=3):
    index = np.asarray(index)
    raw = raw_batch(part, index, np.full(len(index), view), transform, seed)
    return render_batch(raw, transform, seed, size).numpy()


@pytest.mark.parametrize("uncut", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_a_view_is_the_same_in_any_batch(transform, uncut):
    part = examples(uncut)
    together = seen(part, range(COUNT), 5, transform)
    assert together.shape == (COUNT, 24, 24, 3)
    assert together.min() >= -1e-3
    assert together.max() <= 255.01
    np.testing.assert_allclose(seen(part, [4, 1], 5, transform), together[[4, 1]], atol=1e-3)
    np.testing.assert_array_equal(seen(part, range(COUNT), 5, transform), together)


@pytest.mark.parametrize("transform", TRANSFORMS)
def test_another_view_or_seed_looks_different(transform):
    part = examples()
    first = seen(part, range(COUNT), 5, transform)
    for other in (seen(part, range(COUNT), 6, transform),
                  seen(part, range(COUNT), 5, transform, seed=4)):  # fmt: skip
        assert (np.abs(first - other).mean(axis=(1, 2, 3)) > 1).all()


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("uncut", [False, True])
def test_two_sizes_show_the_same(transform, uncut):
    part = examples(uncut, smooth=True)
    small, large = (seen(part, range(COUNT), 1, transform, size) for size in (32, 96))
    reduced = large.reshape(COUNT, 32, 3, 32, 3, 3).mean(axis=(2, 4))
    assert np.median(np.abs(reduced - small)) < 1
    assert np.abs(reduced - small).mean() < 4


def test_steps_are_crop_then_colour_then_mixing():
    part, size, seed = examples(), 32, 3
    index, views = np.array([2, 7]), np.array([1, 4])
    raw = raw_batch(part, index, views, EVERYTHING, seed)
    keys = part.images.keys[part.rows[index]]
    mixtures = draw_mixtures("cutmix", 1.0, seed, keys, views, COUNT)

    def unmixed(rows, numbers):
        cut = render_views(
            tf.constant(part.images.array[rows]), tf.constant(part.images.keys[rows]),
            tf.constant(numbers), EVERYTHING.augmentation, seed, size,
        )  # fmt: skip
        drawn = [draw_factors(0.4, seed, int(part.images.keys[row]), int(view))
                 for row, view in zip(rows, numbers, strict=True)]  # fmt: skip
        return jitter(cut, np.stack(drawn))

    first, second = unmixed(part.rows[index], views), unmixed(part.rows[mixtures.partners], views)
    expected = mix_pixels("cutmix", first, second, mixtures.ratios, mixtures.boxes)
    np.testing.assert_allclose(render_batch(raw, EVERYTHING, seed, size), expected, atol=1e-3)
    np.testing.assert_array_equal(raw["labels"], part.labels[index])
    np.testing.assert_array_equal(raw["partner_labels"], part.labels[mixtures.partners])
    np.testing.assert_array_equal(raw["ratios"], mixtures.ratios)


def test_mirrored_is_the_mirror_image():
    part = examples()
    raw = raw_batch(part, np.arange(4), np.zeros(4, np.int64), EVERYTHING, 0)
    plain, mirrored = (render_batch(raw, EVERYTHING, 0, 24, side) for side in (False, True))
    np.testing.assert_array_equal(mirrored, plain.numpy()[:, :, ::-1])


@pytest.mark.parametrize("uncut", [False, True])
@pytest.mark.parametrize("transform", TRANSFORMS)
def test_the_signature_is_that_of_the_batch(transform, uncut):
    part = examples(uncut)
    raw = raw_batch(part, np.arange(5), np.zeros(5, np.int64), transform, 0)
    signature = raw_signature(part, transform, 5)
    assert raw.keys() == signature.keys()
    for name, spec in signature.items():
        assert (raw[name].shape, raw[name].dtype) == (tuple(spec.shape), spec.dtype.as_numpy_dtype)


@pytest.mark.parametrize("resize", ["squeeze", "crop"])
def test_deployment_sees_the_pixels_that_were_measured(resize):
    small = np.random.default_rng(4).integers(0, 256, (4, 7, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize((70, 40), Image.Resampling.BILINEAR))
    canvas = np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR))[None]
    aspects = np.array([70 / 40], np.float32) if resize == "crop" else None
    images = ImageStore(canvas, np.array([5]), {"a": 0}, "digest", aspects is not None, aspects)
    part = Subset(images, np.array([0]), np.array([0], np.int32))
    (batch,) = evaluation_batches(part, image_size=24)
    pixels = student_pixels(image, resize=resize, side=48, image_size=24)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, batch["inputs"][0])
    if resize == "crop":  # the centre of 7/8 of the shorter side, within the resampling's error
        box = (17.5, 2.5, 52.5, 37.5)
        plain = Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR, box)
        assert np.abs(np.asarray(plain, np.float32) - pixels).max() < 4

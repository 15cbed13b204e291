import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import dataclasses
import re

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from candle_tf.data.augment import augmentation as operations_of
from candle_tf.data.augment.augmentation import WHOLE, Augmentation, make_augmentation
from candle_tf.data.augment.color_jitter import draw_factors, jitter
from candle_tf.data.augment.crops import render_views
from candle_tf.data.augment.evaluation import student_pixels
from candle_tf.data.augment.mix import HalfMix, Mix, draw_mixtures, mix_pixels
from candle_tf.data.augment.operation import Operation
from candle_tf.data.augment.settings import OPERATIONS, AugmentSettings
from candle_tf.data.augment.views import Views
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.pipeline import evaluation_batches
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError, find_user_error
from candle_tf.registry import Registry

COUNT = 9
SIDE = 32
PLAIN = AugmentSettings("pad_crop_flip")
EVERYTHING = AugmentSettings("random_resized_crop_flip", color_jitter=0.4, mix="cutmix")
SETTINGS = [PLAIN, AugmentSettings("pad_crop", color_jitter=0.4),
            AugmentSettings("pad_crop", mix="mixup"),
            AugmentSettings("pad_crop", randaugment_magnitude=6.0, randaugment_layers=1),
            EVERYTHING]  # fmt: skip


def examples(original_aspect: bool = False, smooth: bool = False) -> Subset:
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    if smooth:
        small = [Image.fromarray(each[:4, :4]) for each in array]
        array = np.stack([np.asarray(each.resize((SIDE, SIDE))) for each in small])
    ids = [f"train/a/{row}.png" for row in range(COUNT)]
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    aspects = np.linspace(0.5, 2, COUNT).astype(np.float32) if original_aspect else None
    rows = {image_id: row for row, image_id in enumerate(ids)}
    images = ImageStore(array, keys, rows, "digest", aspects is not None, aspects)
    return Subset(images, np.arange(COUNT)[::-1], np.arange(COUNT, dtype=np.int32))


def render(part, images, number, settings, size=24, seed=3):
    augmentation, images = make_augmentation(settings, seed), np.asarray(images)
    batch = augmentation.draw(part, Views(images, np.full(len(images), number)))
    return augmentation.render(batch, size).numpy()


@pytest.mark.parametrize("original_aspect", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_a_view_is_the_same_in_any_batch(settings, original_aspect):
    part = examples(original_aspect)
    together = render(part, range(COUNT), 5, settings)
    assert together.shape == (COUNT, 24, 24, 3)
    assert together.min() >= -1e-3
    assert together.max() <= 255.01
    np.testing.assert_allclose(render(part, [4, 1], 5, settings), together[[4, 1]], atol=1e-3)
    np.testing.assert_array_equal(render(part, range(COUNT), 5, settings), together)


@pytest.mark.parametrize("settings", SETTINGS)
def test_another_view_or_seed_has_other_pixels(settings):
    part = examples()
    first = render(part, range(COUNT), 5, settings)
    for other in (render(part, range(COUNT), 6, settings),
                  render(part, range(COUNT), 5, settings, seed=4)):  # fmt: skip
        assert (np.abs(first - other).mean(axis=(1, 2, 3)) > 1).all()


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("original_aspect", [False, True])
def test_two_sizes_show_the_same(settings, original_aspect):
    part = examples(original_aspect, smooth=True)
    small, large = (render(part, range(COUNT), 1, settings, size) for size in (32, 96))
    reduced = large.reshape(COUNT, 32, 3, 32, 3, 3).mean(axis=(2, 4))
    assert np.median(np.abs(reduced - small)) < 1
    assert np.abs(reduced - small).mean() < 4


def test_steps_are_crop_then_colour_then_mixing():
    part, size, seed = examples(), 32, 3
    index, views = np.array([2, 7]), np.array([1, 4])
    augmentation = make_augmentation(EVERYTHING, seed)
    raw = augmentation.draw(part, Views(index, views))
    keys = part.images.keys[part.rows[index]]
    mixtures = draw_mixtures("cutmix", 1.0, seed, keys, views, COUNT)

    def render_one(rows, numbers):
        cut = render_views(
            tf.constant(part.images.array[rows]), tf.constant(part.images.keys[rows]),
            tf.constant(numbers), EVERYTHING.augmentation, seed, size,
        )  # fmt: skip
        drawn = [draw_factors(0.4, seed, int(part.images.keys[row]), int(view))
                 for row, view in zip(rows, numbers, strict=True)]  # fmt: skip
        return jitter(cut, np.stack(drawn))

    first, second = (
        render_one(part.rows[index], views),
        render_one(part.rows[mixtures.partners], views),
    )
    expected = mix_pixels("cutmix", first, second, mixtures.ratios, mixtures.boxes)
    np.testing.assert_allclose(augmentation.render(raw, size), expected, atol=1e-3)
    np.testing.assert_array_equal(raw["labels"], part.labels[index])
    np.testing.assert_array_equal(raw["partner_labels"], part.labels[mixtures.partners])
    np.testing.assert_array_equal(raw["ratios"], mixtures.ratios)


@pytest.mark.parametrize("original_aspect", [False, True])
@pytest.mark.parametrize("settings", SETTINGS)
def test_the_signature_is_that_of_the_batch(settings, original_aspect):
    part = examples(original_aspect)
    augmentation = make_augmentation(settings, seed=0)
    raw = augmentation.draw(part, Views(np.arange(5), np.zeros(5, np.int64)))
    signature = augmentation.signature(part, 5)
    assert raw.keys() == signature.keys()
    for name, spec in signature.items():
        assert (raw[name].shape, raw[name].dtype) == (tuple(spec.shape), spec.dtype.as_numpy_dtype)


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_deployment_sees_the_pixels_that_were_measured(resize):
    small = np.random.default_rng(4).integers(0, 256, (4, 7, 3), np.uint8)
    image = np.asarray(Image.fromarray(small).resize((70, 40), Image.Resampling.BILINEAR))
    array = np.asarray(Image.fromarray(image).resize((48, 48), Image.Resampling.BILINEAR))[None]
    aspects = np.array([70 / 40], np.float32) if resize == "crop" else None
    images = ImageStore(array, np.array([5]), {"a": 0}, "digest", aspects is not None, aspects)
    part = Subset(images, np.array([0]), np.array([0], np.int32))
    (batch,) = evaluation_batches(part, image_size=24)
    pixels = student_pixels(image, resize=resize, side=48, image_size=24)
    assert pixels.dtype == np.uint8
    np.testing.assert_array_equal(pixels, batch["inputs"][0])
    if resize == "crop":  # the centre of 7/8 of the shorter side, within the resampling's error
        box = (17.5, 2.5, 52.5, 37.5)
        plain = Image.fromarray(image).resize((24, 24), Image.Resampling.BILINEAR, box)
        assert np.abs(np.asarray(plain, np.float32) - pixels).max() < 4


def test_operations_are_in_the_registry_s_order_and_only_those_asked_for():
    everything = AugmentSettings("pad_crop", 0.4, 5.0, 2, "mixup")
    kinds = [type(operation) for operation in make_augmentation(everything, 0).operations]
    registered = list(OPERATIONS.values())
    assert kinds == [kind for kind in registered if kind is not HalfMix]
    half = make_augmentation(dataclasses.replace(everything, mix_views="half"), 0).operations
    assert [type(operation) for operation in half] == [k for k in registered if k is not Mix]
    assert make_augmentation(AugmentSettings("none"), 0).operations == WHOLE.operations


def test_whole_images_are_those_of_any_seed_and_flips_are_known():
    assert make_augmentation(AugmentSettings("none"), 5).is_whole
    assert make_augmentation(AugmentSettings("none"), 5).key() == WHOLE.key()
    for settings in SETTINGS:
        augmentation = make_augmentation(settings, 5)
        assert not augmentation.is_whole
        assert augmentation.flips == settings.augmentation.endswith("_flip")


def test_every_setting_and_the_seed_change_the_key():
    given = {"augmentation": "pad_crop", "color_jitter": 0.4, "randaugment_magnitude": 5.0,
                 "randaugment_layers": 2, "mix": "mixup", "mix_alpha": 1.0}  # fmt: skip
    others = {"augmentation": "none", "color_jitter": 0.3, "randaugment_magnitude": 6.0,
                  "randaugment_layers": 1, "mix": "cutmix", "mix_alpha": 0.5}  # fmt: skip
    keys = [make_augmentation(AugmentSettings(**{**given, name: value}), 0).key()
            for name, value in others.items()]  # fmt: skip
    original = make_augmentation(AugmentSettings(**given), 0)
    keys += [original.key(), Augmentation(original.operations, seed=1).key()]
    assert len({str(key) for key in keys}) == len(others) + 2


def crop_key(augmentation, **settings):
    key = make_augmentation(AugmentSettings(augmentation, **settings), 0).key()
    return key["operations"][0]


def test_the_least_area_changes_pixels_and_key_of_the_crops_that_it_is_of():
    small, plain = (
        AugmentSettings("random_resized_crop_flip", crop_area=area) for area in (0.08, 0.35)
    )
    part = examples()
    keys = part.images.keys[part.rows]
    for settings in (small, plain):
        expected = render_views(
            tf.constant(part.images.array[part.rows]), tf.constant(keys),
            tf.fill([COUNT], tf.constant(2, tf.int64)), settings.augmentation, 3, 24,
            least_area=settings.crop_area,
        )  # fmt: skip
        np.testing.assert_array_equal(render(part, range(COUNT), 2, settings), expected)
    assert np.abs(render(part, range(COUNT), 2, small) - render(part, range(COUNT), 2, plain)).max()
    # Keys of before it was a setting: caches and runs with them are used again.
    name = "random_resized_crop_flip"
    assert crop_key(name) == {"operation": "Crop", "kind": name}
    assert crop_key(name, crop_area=0.08) == {**crop_key(name), "least_area": 0.08}
    for other in ("none", "pad_crop", "pad_crop_flip", "alternating_crop_flip"):
        assert crop_key(other, crop_area=0.08) == {"operation": "Crop", "kind": other}
    assert make_augmentation(AugmentSettings("none", crop_area=0.08), 5).key() == WHOLE.key()


@dataclasses.dataclass(frozen=True)
class Own(Operation):
    """Does to pixels what a function does."""

    change: object

    @classmethod
    def from_settings(cls, settings):  # noqa: ARG003
        return None

    def draw(self, drawing):  # noqa: ARG002
        return {}

    def signature(self, before):  # noqa: ARG002
        return {}

    def apply(self, pixels, rendering):  # noqa: ARG002
        return self.change(pixels)


def with_own(change) -> Augmentation:
    return Augmentation((*make_augmentation(PLAIN, 0).operations, Own(change)), 0)


def without_shape(x):
    return tf.py_function(lambda y: y[:, :8], [x], tf.float32)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda x: x[:, :8], r"float32 \(5, 8, 24, 3\)"),
        (lambda x: x[:, :, :, :1], r"float32 \(5, 24, 24, 1\)"),
        (lambda x: x[0], r"float32 \(24, 24, 3\)"),
        (lambda x: tf.cast(x, tf.uint8), r"uint8 \(5, 24, 24, 3\)"),
        (lambda x: tf.cast(x, tf.float16), r"float16 \(5, 24, 24, 3\)"),
        (lambda _: None, "NoneType"),
    ],
)
def test_an_operation_of_another_shape_or_type_is_refused_while_it_is_traced(change, found):
    part, augmentation = examples(), with_own(change)
    batch = augmentation.draw(part, Views(np.arange(5), np.zeros(5, np.int64)))
    dataset = tf.data.Dataset.from_tensors(batch)
    with pytest.raises(UserError) as caught:
        dataset.map(lambda each: augmentation.render(each, 24))
    told = find_user_error(caught.value)
    assert told is not None
    assert re.fullmatch(
        rf"augmentation Own \(.*test_augmentation\): `apply` gave {found}; asked is "
        r"float32 \(5, 24, 24, 3\), in 0 to 255\.",
        str(told),
    )


def test_a_shape_that_is_not_known_before_is_checked_when_it_is():
    part, augmentation = examples(), with_own(without_shape)
    batch = augmentation.draw(part, Views(np.arange(5), np.zeros(5, np.int64)))
    traced = tf.function(lambda each: augmentation.render(each, 24))
    with pytest.raises(tf.errors.InvalidArgumentError, match="pixels_of_Own"):
        traced(batch)


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (type("Part", (), {}), "is no subclass of .*Operation"),
        (with_own, r"\(.*:with_own\) is no subclass of"),
        (type("Part", (Operation,), {"draw": None}), "has no method apply, from_settings, sig"),
    ],
)
def test_what_is_no_operation_is_refused(monkeypatch, part, words):
    monkeypatch.setattr(operations_of, "OPERATIONS", Registry({"mine": part}))
    with pytest.raises(UserError, match=f"augmentation 'mine' .*{words}"):
        make_augmentation(PLAIN, 0)

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.augment import augmentation as augmentation_module
from candle_tf.data.augment.augmentation import WHOLE, Augmentation, make_augmentation
from candle_tf.data.augment.crops import render, sample_view
from candle_tf.data.augment.precomputed_views import PrecomputedViews, same_for_all
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.cached_arrays import key_digest
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.pipeline import training_batches
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.teachers.backbones import FrozenBackbone, Teacher
from candle_tf.teachers.features import (
    as_float16,
    average_features,
    cached_features,
    features_key,
    teacher_views,
)
from candle_tf.weight_files.checksums import fingerprint

COUNT = 300  # two views of so many do not fit into one block of 512 rows
SIDE = 12
RESOLUTION = 10
SAME = same_for_all(COUNT, 2)


class PatienceError(Exception):
    pass


class CountingTeacher(Teacher):
    """A teacher that keeps what it was shown, and may stop after so many rows."""

    shown: list[np.ndarray]
    patience: int

    def features(self, pixels):
        rows = sum(len(batch) for batch in self.shown) + len(pixels)
        if rows > self.patience:
            raise PatienceError
        self.shown.append(np.asarray(pixels))
        return super().features(pixels)

    def all_pixels(self):
        return np.concatenate(self.shown) if self.shown else np.empty((0, 0, 0, 3))


def make_teacher(seed: int = 0, patience: int = 10**9) -> CountingTeacher:
    tf.keras.utils.set_random_seed(seed)
    inputs = tf.keras.Input((None, None, 3))
    maps = tf.keras.layers.Conv2D(6, 3, strides=2, activation="relu")(inputs)
    backbone = tf.keras.Model(inputs, maps)
    pixels = tf.keras.Input((None, None, 3))
    features = FrozenBackbone(backbone, lambda x: x / 255.0)(pixels)
    encoder = tf.keras.Model(pixels, features)
    teacher = CountingTeacher("tiny", encoder, 6, fingerprint(encoder))
    object.__setattr__(teacher, "shown", [])
    object.__setattr__(teacher, "patience", patience)
    return teacher


@pytest.fixture(scope="module")
def examples():
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT + 20, SIDE, SIDE, 3), np.uint8)
    ids = [f"train/a/{row}.png" for row in range(len(pixels))]
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    images = ImageStore(pixels, keys, {name: row for row, name in enumerate(ids)}, "digest")
    rows = np.random.default_rng(1).permutation(len(pixels))[:COUNT]
    return Subset(images, rows, np.zeros(COUNT, np.int32))


def augmentation(*settings, seed=0, **changes) -> Augmentation:
    return make_augmentation(AugmentSettings(*settings, **changes), seed)


FLIPPED = augmentation("pad_crop_flip")


def compute_features(
    teacher, subset, folder, views=SAME, resolution=RESOLUTION, augmentation=FLIPPED
):
    return cached_features(teacher, subset, augmentation, views, resolution, folder)


def input_of(subset, augmentation, precomputed, row, resolution=RESOLUTION):
    """What the teacher should be given: one view of one image, float32 [1, R, R, 3]."""
    view = precomputed.of_rows(np.array([row]))
    image = subset.rows[view.images[0]]
    key = tf.constant(subset.images.keys[image])
    kind = augmentation.operations[0].kind
    box, flip = sample_view(kind, augmentation.seed, key, int(view.numbers[0]))
    pixels = render(tf.constant(subset.images.array[image]), box, flip, resolution)
    return (pixels[:, ::-1] if view.mirror[0] else pixels)[tf.newaxis]


# Rows at the ends and beginnings of batches of 64 and of the block of 512.
PLACES = (0, 1, 63, 64, 255, 256, 510, 511, 512, 513)


@pytest.mark.parametrize(
    ("given", "precomputed"),
    [
        (augmentation("pad_crop_flip", seed=5), SAME),
        teacher_views("whole", augmentation("pad_crop_flip", seed=5), np.full(COUNT, 5)),
        (augmentation("pad_crop_flip", seed=5), PrecomputedViews(np.resize([1, 2, 4], COUNT))),
    ],
    ids=["same", "whole", "by image"],
)
def test_values_are_those_of_the_encoder_on_the_rendered_views(
    tmp_path, examples, given, precomputed
):
    teacher = make_teacher()
    features = compute_features(teacher, examples, tmp_path, precomputed, augmentation=given)
    assert features.shape == (precomputed.total, 6)
    assert features.dtype == np.float16
    for row in (*PLACES, precomputed.total - 1):
        wanted = teacher.encoder(input_of(examples, given, precomputed, row)).numpy()[0]
        assert wanted.max() > 0.05
        np.testing.assert_allclose(features[row], wanted, rtol=2e-3, atol=2e-4)
    assert np.abs(features[0].astype(float) - features[1]).max() > 0.01


def test_each_image_view_and_resolution_is_computed_once(tmp_path, examples):
    teacher = make_teacher()
    first = [
        np.array(compute_features(teacher, examples, tmp_path, resolution=r)) for r in (10, 12)
    ]
    shapes = [batch.shape[1] for batch in teacher.shown for _ in batch]
    assert shapes.count(10) == shapes.count(12) == 2 * COUNT
    rows = [row for batch in teacher.shown for row in batch]
    assert len({row.tobytes() for row in rows}) == len(rows)
    teacher.shown.clear()
    for resolution, before in zip((10, 12), first, strict=True):
        again = compute_features(teacher, examples, tmp_path, resolution=resolution)
        np.testing.assert_array_equal(again, before)
    assert teacher.shown == []


def test_an_interrupted_computation_resumes_after_its_last_block(tmp_path, examples):
    whole = np.array(compute_features(make_teacher(), examples, tmp_path / "whole"))
    with pytest.raises(PatienceError):
        compute_features(make_teacher(patience=560), examples, tmp_path / "part")
    teacher = make_teacher()
    features = compute_features(teacher, examples, tmp_path / "part")
    assert len(teacher.all_pixels()) == 2 * COUNT - 512
    np.testing.assert_array_equal(features, whole)


def test_another_teacher_seed_resolution_or_view_is_computed_again(tmp_path, examples):
    compute_features(make_teacher(), examples, tmp_path)
    part = Subset(examples.images, examples.rows[::-1], examples.labels)
    one = same_for_all(COUNT)
    other = PrecomputedViews(np.resize([1, 3], COUNT))
    changes = [
        (make_teacher(seed=1), examples, {}),
        (make_teacher(), examples, {"augmentation": augmentation("pad_crop_flip", seed=1)}),
        (make_teacher(), examples, {"resolution": 11}),
        (make_teacher(), examples, {"views": one}),
        (make_teacher(), examples, {"views": other}),
        (make_teacher(), examples, {"augmentation": augmentation("pad_crop")}),
        (make_teacher(), part, {}),
    ]
    for teacher, images, change in changes:
        features = compute_features(teacher, images, tmp_path, **change)
        assert len(teacher.all_pixels()) == len(features)
        given, views = change.get("augmentation", FLIPPED), change.get("views", SAME)
        pixels = input_of(images, given, views, 7, change.get("resolution", RESOLUTION))
        wanted = teacher.encoder(pixels).numpy()[0]
        np.testing.assert_allclose(features[7], wanted, rtol=2e-3, atol=2e-4)
    teacher = make_teacher()
    compute_features(teacher, examples, tmp_path)
    assert teacher.shown == []


def test_the_key_tells_all_inputs_apart(examples):
    """Keys of means and maps are made of it: there the resolution is in no file's name, and arrays
    have as many rows for other views."""
    as_many = PrecomputedViews(np.resize([1, 3], COUNT))
    assert as_many.total == SAME.total
    part = Subset(examples.images, examples.rows[::-1], examples.labels)
    usual = make_teacher(), examples, FLIPPED, SAME, RESOLUTION
    changes = {
        0: [make_teacher(seed=1)],
        1: [part],
        2: [augmentation("pad_crop"), augmentation("pad_crop_flip", seed=1)],
        3: [as_many, PrecomputedViews(as_many.counts[::-1]), same_for_all(COUNT, mirror=True)],
        4: [RESOLUTION + 1],
    }
    given = [usual] + [
        (*usual[:place], other, *usual[place + 1 :])
        for place, others in changes.items()
        for other in others
    ]
    assert len({key_digest(features_key(*each)) for each in given}) == len(given) == 9
    assert features_key(*usual) == features_key(make_teacher(), *usual[1:])


def test_another_version_of_the_augmentation_is_computed_again(tmp_path, examples, monkeypatch):
    first, second, third = make_teacher(), make_teacher(), make_teacher()
    compute_features(first, examples, tmp_path / "cache")
    compute_features(second, examples, tmp_path / "cache")
    monkeypatch.setattr(augmentation_module, "AUGMENTATION_VERSION", -1)
    compute_features(third, examples, tmp_path / "cache")
    rows = [len(teacher.all_pixels()) for teacher in (first, second, third)]
    assert rows == [2 * COUNT, 0, 2 * COUNT]


@pytest.mark.parametrize(
    "given",
    [augmentation("none", color_jitter=0.4, seed=3),
     augmentation("pad_crop_flip", 0.4, mix="cutmix", seed=3),
     augmentation("random_resized_crop_flip", mix="mixup", seed=3)],
    ids=["jitter", "cutmix", "mixup"],
)  # fmt: skip
def test_the_teacher_sees_what_the_student_sees(tmp_path, examples, given):
    """Pixel by pixel, colours and second images included, in each of two epochs."""
    part = Subset(examples.images, examples.rows[:20], np.arange(20, dtype=np.int32))
    same, precomputed = teacher_views("same", given, np.resize([1, 2], 20))
    teacher = make_teacher()
    compute_features(teacher, part, tmp_path, precomputed, augmentation=same)
    shown = teacher.all_pixels()
    assert len(shown) == 30
    student = training_batches(
        part, image_size=RESOLUTION, augmentation=given, batch_size=20, seed=3, first_epoch=0,
        epochs=2, precomputed=precomputed,
    )  # fmt: skip
    for epoch, batch in enumerate(student.as_numpy_iterator()):
        rows = precomputed.rows(precomputed.at_epoch(batch["labels"], epoch))
        np.testing.assert_allclose(batch["inputs"], shown[rows], atol=1e-3)


def test_another_augmentation_is_computed_again(tmp_path, examples):
    part = Subset(examples.images, examples.rows[:8], examples.labels[:8])
    teacher = make_teacher()
    for given in (
        augmentation("pad_crop_flip"),
        augmentation("pad_crop_flip", color_jitter=0.4),
        augmentation("pad_crop_flip", color_jitter=0.3),
        augmentation("pad_crop_flip", mix="mixup"),
        augmentation("pad_crop_flip", mix="cutmix"),
        augmentation("pad_crop_flip", mix="cutmix", mix_alpha=0.5),
    ):
        teacher.shown.clear()
        for _ in range(2):
            compute_features(teacher, part, tmp_path, same_for_all(8, 1), augmentation=given)
        assert sum(map(len, teacher.shown)) == 8


def test_the_manifest_stays_small_for_many_images(tmp_path, examples):
    compute_features(make_teacher(), examples, tmp_path)
    (manifest,) = tmp_path.glob("*.json")
    assert manifest.stat().st_size < 1000


def test_whole_images_do_not_depend_on_the_seed(tmp_path, examples):
    for seed in (0, 1):
        given = augmentation("pad_crop_flip", seed=seed)
        whole, precomputed = teacher_views("whole", given, np.ones(COUNT))
        teacher = make_teacher()
        compute_features(teacher, examples, tmp_path, precomputed, augmentation=whole)
        assert (teacher.shown == []) == (seed == 1)


def test_the_mirrored_view_is_the_mirror_image(tmp_path, examples):
    teacher = make_teacher()
    whole, precomputed = teacher_views("whole", FLIPPED, np.ones(COUNT))
    compute_features(teacher, examples, tmp_path, precomputed, augmentation=whole)
    rows = teacher.all_pixels()
    np.testing.assert_allclose(rows[1::2], rows[::2, :, ::-1], atol=1e-3)


@pytest.mark.parametrize(
    ("choice", "kind", "count", "expected"),
    [
        ("whole", "none", 4, (1, False)),
        ("whole", "pad_crop", 4, (1, False)),
        ("whole", "pad_crop_flip", 4, (1, True)),
        ("whole", "random_resized_crop_flip", 1, (1, True)),
        ("same", "none", 4, (1, False)),
        ("same", "pad_crop", 1, (1, False)),
        ("same", "pad_crop_flip", 3, (3, False)),
    ],
)
def test_teacher_views(choice, kind, count, expected):
    given = augmentation(kind, seed=2)
    found, precomputed = teacher_views(choice, given, np.full(5, count))
    assert found == (WHOLE if choice == "whole" or kind == "none" else given)
    np.testing.assert_array_equal(precomputed.counts, np.full(5, expected[0]))
    assert precomputed.mirror == expected[1]


@pytest.mark.parametrize("together", [1, 2])
def test_the_mean_over_resolutions_is_stored_once(tmp_path, together):
    rng = np.random.default_rng(0)
    features = [rng.gamma(2.0, 1.0, (1300, 5)).astype(np.float16) for _ in range(3)]
    keys = [{"resolution": number} for number in range(3)]
    mean, key = average_features(features, keys, together, tmp_path)
    wanted = np.mean(np.asarray(features, np.float64), axis=0).reshape(-1, together, 5).mean(1)
    assert mean.dtype == np.float16
    np.testing.assert_allclose(mean, wanted, rtol=1e-3)
    others = [np.full_like(stored, np.nan) for stored in features]
    again, same_key = average_features(others, keys, together, tmp_path)
    np.testing.assert_array_equal(again, mean)
    assert same_key == key
    _, other_key = average_features(features, keys[::-1], together, tmp_path)
    assert other_key != key


@pytest.mark.parametrize("value", [1e5, np.nan, -np.inf])
def test_what_float16_cannot_hold_is_refused(value):
    with pytest.raises(UserError, match=r"mine gives the value .*16 bits"):
        as_float16(np.array([1.0, value], np.float32), "mine")

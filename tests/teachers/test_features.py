import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.pictures import Pictures, picture_key
from candle_tf.data.pipeline import Examples
from candle_tf.data.views import draw_view, render
from candle_tf.teachers.backbones import FrozenBackbone, Teacher
from candle_tf.teachers.features import TeacherView, teacher_views, view_features
from candle_tf.teachers.weights import fingerprint

COUNT = 300  # two views of so many do not fit into one block of 512 rows
SIDE = 12
RESOLUTION = 10
SAME = teacher_views("same", "pad_crop_flip", 2)


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

    def rows_shown(self):
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
    canvas = np.random.default_rng(0).integers(0, 256, (COUNT + 20, SIDE, SIDE, 3), np.uint8)
    ids = [f"train/a/{row}.png" for row in range(len(canvas))]
    keys = np.array([picture_key(image_id) for image_id in ids], np.int64)
    pictures = Pictures(canvas, keys, {name: row for row, name in enumerate(ids)}, "digest")
    rows = np.random.default_rng(1).permutation(len(canvas))[:COUNT]
    return Examples(pictures, rows, np.zeros(COUNT, np.int32))


def stored(teacher, examples, folder, views=SAME, resolution=RESOLUTION, seed=0):
    return view_features(teacher, examples, list(views), resolution, seed, folder)


def seen_of(examples, view, index, resolution=RESOLUTION, seed=0):
    """What the teacher should look at: one view of one picture, float32 [1, R, R, 3]."""
    row = examples.rows[index]
    key = tf.constant(examples.pictures.keys[row])
    box, flip = draw_view(view.augmentation, seed, key, view.number)
    shown = render(tf.constant(examples.pictures.canvas[row]), box, flip, resolution)
    return (shown[:, ::-1] if view.mirrored else shown)[tf.newaxis]


# Pictures at the ends and beginnings of views, of batches of 64 rows and of the block of 512 rows.
PLACES = (0, 63, 64, 210, 211, 212, 213, COUNT - 1)


@pytest.mark.parametrize("choice", ["whole", "same"])
def test_values_are_those_of_the_encoder_on_the_rendered_views(tmp_path, examples, choice):
    teacher = make_teacher()
    views = teacher_views(choice, "pad_crop_flip", 2)
    features = stored(teacher, examples, tmp_path, views, seed=5)
    assert features.shape == (2, COUNT, 6)
    assert features.dtype == np.float16
    for number, view in enumerate(views):
        for index in PLACES:
            wanted = teacher.encoder(seen_of(examples, view, index, seed=5)).numpy()[0]
            assert wanted.max() > 0.05
            np.testing.assert_allclose(features[number, index], wanted, rtol=2e-3, atol=2e-4)
    assert np.abs(features[0].astype(float) - features[1]).max() > 0.01


def test_each_picture_view_and_resolution_is_looked_at_once(tmp_path, examples):
    teacher = make_teacher()
    first = [np.array(stored(teacher, examples, tmp_path, resolution=r)) for r in (10, 12)]
    shapes = [batch.shape[1] for batch in teacher.shown for _ in batch]
    assert shapes.count(10) == shapes.count(12) == 2 * COUNT
    rows = [row for batch in teacher.shown for row in batch]
    assert len({row.tobytes() for row in rows}) == len(rows)
    teacher.shown.clear()
    for resolution, before in zip((10, 12), first, strict=True):
        again = stored(teacher, examples, tmp_path, resolution=resolution)
        np.testing.assert_array_equal(again, before)
    assert teacher.shown == []


def test_an_interrupted_computation_goes_on_after_its_last_block(tmp_path, examples):
    whole = np.array(stored(make_teacher(), examples, tmp_path / "whole"))
    with pytest.raises(PatienceError):
        stored(make_teacher(patience=560), examples, tmp_path / "part")
    teacher = make_teacher()
    features = stored(teacher, examples, tmp_path / "part")
    assert len(teacher.rows_shown()) == 2 * COUNT - 512
    np.testing.assert_array_equal(features, whole)


def test_another_teacher_seed_resolution_or_view_is_computed_anew(tmp_path, examples):
    stored(make_teacher(), examples, tmp_path)
    part = Examples(examples.pictures, examples.rows[::-1], examples.labels)
    changes = [
        (make_teacher(seed=1), examples, {}),
        (make_teacher(), examples, {"seed": 1}),
        (make_teacher(), examples, {"resolution": 11}),
        (make_teacher(), examples, {"views": SAME[::-1]}),
        (make_teacher(), examples, {"views": SAME[:1]}),
        (make_teacher(), part, {}),
    ]
    for teacher, pictures, change in changes:
        features = stored(teacher, pictures, tmp_path, **change)
        assert len(teacher.rows_shown()) == len(features) * COUNT
        view = change.get("views", SAME)[0]
        shown = seen_of(
            pictures, view, 7, change.get("resolution", RESOLUTION), change.get("seed", 0)
        )
        wanted = teacher.encoder(shown).numpy()[0]
        np.testing.assert_allclose(features[0, 7], wanted, rtol=2e-3, atol=2e-4)
    teacher = make_teacher()
    stored(teacher, examples, tmp_path)
    assert teacher.shown == []


def test_the_mirrored_view_is_the_mirror_image(tmp_path, examples):
    teacher = make_teacher()
    stored(teacher, examples, tmp_path, teacher_views("whole", "pad_crop_flip", 4))
    rows = teacher.rows_shown()
    np.testing.assert_allclose(rows[COUNT:], rows[:COUNT, :, ::-1], atol=1e-3)


WHOLE = TeacherView("none", 0, False)
MIRRORED = TeacherView("none", 0, True)


@pytest.mark.parametrize(
    ("choice", "augmentation", "count", "views"),
    [
        ("whole", "none", 4, [WHOLE]),
        ("whole", "pad_crop", 4, [WHOLE]),
        ("whole", "pad_crop_flip", 4, [WHOLE, MIRRORED]),
        ("whole", "random_resized_crop_flip", 1, [WHOLE, MIRRORED]),
        ("same", "pad_crop", 1, [TeacherView("pad_crop", 0)]),
        ("same", "pad_crop_flip", 3, [TeacherView("pad_crop_flip", n) for n in range(3)]),
    ],
)
def test_teacher_views(choice, augmentation, count, views):
    assert teacher_views(choice, augmentation, count) == views

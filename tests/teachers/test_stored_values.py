"""Caches of a plugin's teacher whose code was changed: refused; those of another processor: not."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import logging as python_logging

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.augment.augmentation import WHOLE, make_augmentation
from candle_tf.data.augment.precomputed_views import PrecomputedViews, same_for_all
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.cached_arrays import Shard, stored_array
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.teachers.backbones import Backbone, Teacher, load_teacher
from candle_tf.teachers.feature_maps import TeacherMaps, TrainingViews, store_basis, store_maps
from candle_tf.teachers.features import cached_features, features_key
from candle_tf.teachers.registry import TEACHERS
from candle_tf.teachers.stored_values import largest_difference

COUNT, SIDE, RESOLUTION = 600, 16, 16
MIRRORED = (WHOLE, same_for_all(COUNT, mirror=True))
CHANGED = "features-16px-.*are not those it gives now.*--cache_dir.*--run_dir"


def small_network(channels: int, seed: int) -> tf.keras.Model:
    """Maps at the strides 2 to 32, with weights of a seed."""
    rng = np.random.default_rng(seed)
    pixels = x = tf.keras.Input([None, None, 3])
    for stride in range(5):
        x = tf.keras.layers.Conv2D(channels, 3, 2, "same", activation="relu", name=f"c{stride}")(x)
    model = tf.keras.Model(pixels, x)
    model.set_weights([rng.normal(0, 0.3, each.shape) for each in model.weights])
    return model


@pytest.fixture
def preprocess(monkeypatch):
    """What the teacher "mine" does before its weights, by the name "mine"; a test may change it."""
    found = {"mine": lambda pixels: pixels / 255.0}
    for name, channels in (("mine", 5), ("other", 30)):
        monkeypatch.setitem(
            TEACHERS._targets,
            name,
            lambda *_, name=name, channels=channels: Backbone(
                small_network(channels, channels), found.get(name, lambda pixels: pixels / 25.0)
            ),
        )
    return found


@pytest.fixture(scope="module")
def examples() -> Subset:
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    ids = [f"train/a/{row}.png" for row in range(COUNT)]
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    images = ImageStore(pixels, keys, {name: row for row, name in enumerate(ids)}, "digest")
    return Subset(images, np.arange(COUNT)[::-1], np.zeros(COUNT, np.int32))


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


CROPPED = make_augmentation(AugmentSettings("pad_crop_flip", mix="mixup"), 3)
VIEWS = {
    "whole": (WHOLE, same_for_all(COUNT)),
    "mirrored": MIRRORED,
    "mixed, by image": (CROPPED, PrecomputedViews(np.resize([1, 2], COUNT))),
}


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
@pytest.mark.parametrize("name", ["mine", "other+mine"])
def test_changed_preprocessing_is_refused_and_the_cache_stays(
    tmp_path, examples, preprocess, views, name
):
    before = load_teacher(name)
    for resolution in (12, RESOLUTION):
        cached_features(before, examples, *views, resolution, tmp_path)
    kept = contents(tmp_path)
    preprocess["mine"] = lambda pixels: pixels / 1.0
    after = load_teacher(name)
    assert after.fingerprint == before.fingerprint
    for _ in range(2):
        with pytest.raises(UserError, match=CHANGED):
            cached_features(after, examples, *views, RESOLUTION, tmp_path)
    with pytest.raises(UserError, match="features-12px"):
        cached_features(after, examples, *views, 12, tmp_path)
    assert contents(tmp_path) == kept
    preprocess["mine"] = lambda pixels: pixels / 255.0
    same = load_teacher(name)
    assert cached_features(same, examples, *views, RESOLUTION, tmp_path).shape[0] > 0


@pytest.mark.parametrize(
    "change",
    [lambda pixels: pixels / 127.5 - 1, lambda pixels: pixels[..., ::-1] / 255.0,
     lambda pixels: pixels / 255.0 + np.nan, lambda pixels: pixels / 230.0],
    ids=["centred", "channels", "nan", "a tenth"],
)  # fmt: skip
def test_other_changes_are_refused(tmp_path, examples, preprocess, change):
    cached_features(load_teacher("mine"), examples, *MIRRORED, RESOLUTION, tmp_path)
    preprocess["mine"] = change
    with pytest.raises(UserError, match=CHANGED):
        cached_features(load_teacher("mine"), examples, *MIRRORED, RESOLUTION, tmp_path)


def test_a_cache_that_is_begun_is_checked_before_the_rest_is_computed(
    tmp_path, examples, preprocess
):
    cached_features(
        load_teacher("mine"), examples, *MIRRORED, RESOLUTION, tmp_path, shard=Shard(3, 3)
    )
    kept = contents(tmp_path)
    preprocess["mine"] = lambda pixels: pixels / 1.0
    with pytest.raises(UserError, match=CHANGED):
        cached_features(load_teacher("mine"), examples, *MIRRORED, RESOLUTION, tmp_path)
    assert contents(tmp_path) == kept


def store_others(folder, teacher, subset, noise: float) -> None:
    """A cache as it is where the teacher's values differ by so much, relative to each."""
    found = cached_features(teacher, subset, *MIRRORED, RESOLUTION, folder / "exact")
    factors = 1 + noise * np.random.default_rng(0).normal(size=found.shape)
    key = features_key(teacher, subset, *MIRRORED, RESOLUTION)
    other = (found * factors).astype(np.float16)
    stored_array(folder, "features-16px", key, found.shape, "float16", 512, lambda a, b: other[a:b])


@pytest.mark.parametrize(("noise", "told"), [(0, False), (1e-3, False), (0.01, True)])
def test_what_another_processor_gives_is_used(tmp_path, examples, preprocess, caplog, noise, told):
    del preprocess
    store_others(tmp_path, load_teacher("mine"), examples, noise)
    with caplog.at_level(python_logging.WARNING, "absl"):
        cached_features(load_teacher("mine"), examples, *MIRRORED, RESOLUTION, tmp_path)
    assert ("are not those it gives now" in caplog.text) == told


class CountingTeacher(Teacher):
    """A teacher that counts the images it is shown."""

    shown: list[int]

    def features(self, pixels):
        self.shown.append(len(pixels))
        return super().features(pixels)


def counting_teacher(foreign: bool) -> CountingTeacher:
    found = load_teacher("mine")
    teacher = CountingTeacher(
        found.name, found.encoder, found.feature_size, found.fingerprint, has_foreign_code=foreign
    )
    object.__setattr__(teacher, "shown", [])
    return teacher


@pytest.mark.parametrize(("foreign", "images"), [(True, 8), (False, 0)])
def test_eight_rows_are_computed_once_and_of_this_packages_teachers_none(
    tmp_path, examples, preprocess, foreign, images
):
    del preprocess
    cached_features(load_teacher("mine"), examples, *MIRRORED, RESOLUTION, tmp_path)
    teacher = counting_teacher(foreign)
    for _ in range(3):
        cached_features(teacher, examples, *MIRRORED, RESOLUTION, tmp_path)
    assert sum(teacher.shown) == images
    computes = counting_teacher(foreign)
    for _ in range(2):
        cached_features(computes, examples, *MIRRORED, RESOLUTION, tmp_path / "new")
    assert sum(computes.shown) == 2 * COUNT


def test_of_the_teachers_by_name_those_of_a_plugin_are_foreign(preprocess, monkeypatch):
    del preprocess
    own = Backbone(small_network(4, 1), tf.identity)
    monkeypatch.setitem(TEACHERS._targets, "efficientnet_lite1", lambda *_: own)
    found = {name: load_teacher(name).has_foreign_code
             for name in ("efficientnet_lite1", "mine", "efficientnet_lite1+mine")}  # fmt: skip
    assert found == {"efficientnet_lite1": False, "mine": True, "efficientnet_lite1+mine": True}
    assert load_teacher("efficientnet_lite1+mine").with_scales([1, 2]).has_foreign_code


def test_maps_of_changed_preprocessing_are_refused(tmp_path, examples, preprocess):
    few = Subset(examples.images, examples.rows[:40], examples.labels[:40])
    views = TrainingViews(few, WHOLE, same_for_all(40, mirror=True), 64)
    maps = TeacherMaps.of(load_teacher("mine"))
    store_maps(maps, store_basis(maps, views, tmp_path), views, tmp_path)
    again = TeacherMaps.of(load_teacher("mine"))
    store_maps(again, store_basis(again, views, tmp_path), views, tmp_path)
    preprocess["mine"] = lambda pixels: pixels / 1.0
    changed = TeacherMaps.of(load_teacher("mine"))
    with pytest.raises(UserError, match=r"maps-64px-.*are not those it gives now"):
        store_maps(changed, store_basis(changed, views, tmp_path), views, tmp_path)


def test_successive_columns_are_compared_each_on_their_own():
    stored = np.array([[100, 0, 1, 1], [100, 0, 2, 2], [100, 0, 0, 0]], np.float16)
    given = stored.astype(np.float32)
    assert largest_difference(given, stored) == 0
    given[1, 2:] = [2, 3]
    assert largest_difference(given, stored) == pytest.approx(1 / np.hypot(100, 4 / 2**0.5), 1e-2)
    assert largest_difference(given, stored, (2, 2)) == pytest.approx(1 / 8**0.5, rel=1e-3)
    # A row that is 0 counts by a tenth of the others' norm.
    given = stored.astype(np.float32)
    given[2, 3] = 0.01
    norm = 0.1 * np.mean([2**0.5, 8**0.5, 0])
    assert largest_difference(given, stored, (2, 2)) == pytest.approx(0.01 / norm, rel=1e-3)


def test_the_rounding_of_float16_is_no_difference():
    for size in (1e-6, 1e-3, 1.0, 1e3):
        given = size * np.random.default_rng(0).random((8, 20)).astype(np.float32)
        assert largest_difference(given, given.astype(np.float16)) < 5e-4

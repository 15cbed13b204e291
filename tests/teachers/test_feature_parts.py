"""Features of several teachers, layers and resolutions side by side, against each alone."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.augment.augmentation import WHOLE
from candle_tf.data.augment.crops import render, whole_box
from candle_tf.data.augment.precomputed_views import same_for_all
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.methods.calibration import CalibrationTrainer, feature_batches, teacher_classifier
from candle_tf.methods.losses import cross_entropy
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.teachers.backbones import Backbone, load_teacher
from candle_tf.teachers.feature_parts import (
    FeaturePart,
    JoinedFeatures,
    at_resolutions,
    column_scales,
    encoder_at_resolutions,
    join_arrays,
    resolution_groups,
)
from candle_tf.teachers.features import (
    cached_features,
    features_key,
    features_of,
    mean_rows,
    scale_parts,
)
from candle_tf.teachers.registry import TEACHERS
from candle_tf.teachers.settings import TeacherSettings, split_teachers
from candle_tf.weight_files.checksums import fingerprint

COUNT, SIDE = 40, 16


def random_backbone(channels: int, seed: int, gain: float = 1.0) -> Backbone:
    """Two strides, with a batch norm that folds, and random weights of a seed."""
    rng = np.random.default_rng(seed)
    pixels = tf.keras.Input([None, None, 3])
    x = tf.keras.layers.Conv2D(4, 3, 2, "same", activation="relu")(pixels)
    x = tf.keras.layers.Conv2D(channels, 3, 2, "same", use_bias=False)(x)
    x = tf.keras.layers.ReLU()(tf.keras.layers.BatchNormalization()(x))
    model = tf.keras.Model(pixels, x)
    for weight in model.weights:
        low = 0.5 if "variance" in weight.name else -0.5
        weight.assign(rng.uniform(low, 1.0, weight.shape))
    model.layers[-2].gamma.assign(gain * np.ones(channels))
    return Backbone(model, lambda x: x / 255.0, foldable=seed % 2 == 1)


@pytest.fixture
def teachers(monkeypatch):
    """Three small teachers by name; "large" has features about ten times as large as "small"."""
    for name, settings in {"small": (5, 1), "large": (3, 2, 10.0), "third": (2, 3)}.items():
        monkeypatch.setitem(
            TEACHERS._targets, name, lambda *_, settings=settings: random_backbone(*settings)
        )


@pytest.fixture(scope="module")
def examples():
    rng = np.random.default_rng(0)
    bright = rng.uniform(0.1, 1, (COUNT, 1, 1, 3))
    pixels = (bright * rng.integers(0, 256, (COUNT, SIDE, SIDE, 3))).astype(np.uint8)
    keys = np.array([image_key(str(row)) for row in range(COUNT)], np.int64)
    images = ImageStore(pixels, keys, {str(row): row for row in range(COUNT)}, "digest")
    return Subset(images, np.arange(COUNT)[::-1], np.arange(COUNT, dtype=np.int32) % 2)


def pixels(count: int = 4, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 24, 24, 3)).astype(np.float32)


@pytest.mark.usefixtures("teachers")
@pytest.mark.parametrize("layers", [1, 2])
def test_several_teachers_give_what_each_gives_alone(layers):
    names = ["small", "large", "third"]
    alone = [load_teacher(name, layers=layers) for name in names]
    joined = load_teacher("+".join(names), layers=layers)
    expected = np.concatenate([teacher.features(pixels()) for teacher in alone], axis=1)
    assert joined.feature_size == expected.shape[1] == 10 + 12 * (layers - 1)
    np.testing.assert_allclose(joined.features(pixels()), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(joined.encoder(pixels()), expected, rtol=1e-4, atol=1e-5)
    assert joined.parts == sum((teacher.parts for teacher in alone), ())
    assert [part.size for part in joined.parts[:layers]] == [5, 4][:layers]


@pytest.mark.usefixtures("teachers")
def test_the_fingerprint_is_of_all_of_them_in_their_order():
    found = {load_teacher(name).fingerprint for name in ("small", "small+large", "large+small")}
    assert len(found) == 3
    again = load_teacher("small+large")
    assert again.fingerprint in found
    assert again.fingerprint == fingerprint(again.encoder)
    assert again.encoder.trainable_weights == []


@pytest.mark.usefixtures("teachers")
def test_a_linear_classifier_of_both_holds_any_average_of_their_logits():
    rng = np.random.default_rng(3)
    kernels = [rng.normal(size=(5, 4)), rng.normal(size=(3, 4))]
    each = [np.asarray(load_teacher(name).features(pixels())) for name in ("small", "large")]
    average = 0.3 * each[0] @ kernels[0] + 0.7 * each[1] @ kernels[1]
    joined = load_teacher("small+large").with_scales([1.0, 0.25]).features(pixels())
    kernel = np.concatenate([0.3 * kernels[0], 0.7 * kernels[1] / 0.25])
    np.testing.assert_allclose(np.asarray(joined) @ kernel, average, rtol=1e-3, atol=1e-3)


def test_scales_make_all_parts_as_large_as_the_first():
    rng = np.random.default_rng(1)
    pairs = [(4, 2.0), (2, 50.0), (3, 0.1), (1, 0.0)]
    columns = [5 + gain * rng.normal(size=(300, size)) for size, gain in pairs]
    features = np.concatenate(columns, axis=1).astype(np.float32)
    scales = column_scales(features, [FeaturePart("any", size) for size, _ in pairs])
    assert scales[0] == 1
    for scale, part in zip(scales[:3], columns, strict=False):
        deviation = np.sqrt(np.mean((scale * (part - part.mean(0))) ** 2))
        expected = np.sqrt(np.mean((columns[0] - columns[0].mean(0)) ** 2))
        assert deviation == pytest.approx(expected, rel=1e-4)
    # What never changes has no size to bring to another one.
    assert scales[3] == 1


@pytest.mark.usefixtures("teachers")
def test_scales_are_measured_on_whole_training_images_and_stored(tmp_path, examples):
    plain = load_teacher("small+large", layers=2)
    found = scale_parts(plain, examples, 16, tmp_path)
    views = same_for_all(COUNT).of_rows(np.arange(COUNT))
    raw = features_of(plain, examples, WHOLE, views, 16)
    scales = [part.scale for part in found.parts]
    np.testing.assert_allclose(scales, column_scales(raw, plain.parts), rtol=1e-6)
    assert scales[2] < 0.5
    factors = np.repeat(scales, [part.size for part in found.parts])
    for encode in (found.features, found.encoder):
        np.testing.assert_allclose(encode(pixels()), factors * plain.features(pixels()), rtol=1e-4)
    assert found.fingerprint == plain.fingerprint == fingerprint(found.encoder)
    # They are read again, and not measured again.
    (stored,) = tmp_path.glob("*.npy")
    assert np.load(stored).shape == (4,)
    before = stored.stat().st_mtime_ns
    again = scale_parts(load_teacher("small+large", layers=2), examples, 16, tmp_path)
    assert again.parts == found.parts
    assert stored.stat().st_mtime_ns == before


@pytest.mark.usefixtures("teachers")
def test_a_teacher_of_one_part_keeps_its_features_and_its_keys(tmp_path, examples):
    teacher = load_teacher("small")
    assert scale_parts(teacher, examples, 16, tmp_path) is teacher
    assert list(tmp_path.iterdir()) == []
    once = same_for_all(COUNT)
    key = features_key(teacher, examples, WHOLE, once, 16)
    assert set(key) == {
        "version", "teacher", "images", "rows", "augmentation", "views", "resolution",
    }  # fmt: skip
    assert key["teacher"] == fingerprint(random_backbone(5, 1).model)
    assert join_arrays([np.zeros((2, 3))], [key])[1] == key


@pytest.mark.usefixtures("teachers")
def test_layers_and_scales_have_keys_of_their_own(examples):
    once = same_for_all(COUNT)
    one, two = load_teacher("small"), load_teacher("small", layers=2)
    assert one.fingerprint == two.fingerprint
    keys = [
        features_key(each, examples, WHOLE, once, 16)
        for each in (one, two, two.with_scales([1.0, 3.0]), two.with_scales([1.0, 4.0]))
    ]
    assert all(keys[i] != keys[j] for i in range(4) for j in range(i))


def test_stored_features_side_by_side_are_read_as_one_array(tmp_path):
    rng = np.random.default_rng(0)
    arrays = [rng.normal(size=(50, size)).astype(np.float16) for size in (3, 1, 4)]
    for number, each in enumerate(arrays):
        np.save(tmp_path / f"{number}.npy", each)
    mapped = tuple(np.load(tmp_path / f"{number}.npy", mmap_mode="r") for number in range(3))
    whole, joined = np.concatenate(arrays, axis=1), JoinedFeatures(mapped)
    assert joined.shape == whole.shape
    assert len(joined) == 50
    for rows in (slice(3, 9), np.array([7, 7, 0]), slice(40, 90)):
        np.testing.assert_array_equal(joined[rows], whole[rows])
    np.testing.assert_array_equal(mean_rows([joined], 5, 20), whole[5:20].astype(np.float32))
    _, key = join_arrays(arrays, [{"resolution": number} for number in range(3)])
    _, other = join_arrays(arrays, [{"resolution": number} for number in (1, 0, 2)])
    assert key != other


def test_resolutions_are_rows_or_one_row():
    assert resolution_groups((96, 128), concatenate=False) == ((96,), (128,))
    assert resolution_groups((96, 128), concatenate=True) == ((96, 128),)
    # One alone is the same row, and the same key, either way.
    assert resolution_groups((96,), concatenate=True) == resolution_groups((96,), concatenate=False)
    parts = (FeaturePart("a", 2), FeaturePart("b", 3))
    assert at_resolutions(parts, 2) == parts * 2


@pytest.mark.usefixtures("teachers")
def test_a_classifier_is_calibrated_on_all_columns_and_no_teacher_moves(tmp_path, examples):
    teacher = scale_parts(load_teacher("small+large", layers=2), examples, 16, tmp_path)
    once = same_for_all(COUNT)
    stored = [cached_features(teacher, examples, WHOLE, once, r, tmp_path) for r in (12, 16)]
    features = JoinedFeatures(tuple(stored))
    before = [weight.numpy() for weight in teacher.encoder.weights]
    classifier = teacher_classifier(features.shape[1], 2)
    start = classifier.get_layer("classifier").kernel.numpy()
    group = ParameterGroup(classifier.trainable_variables, adam(0.05))
    trainer = CalibrationTrainer(classifier, 2, cross_entropy, [group])
    trainer.compile()
    # Which images are "1" is told by the last feature alone.
    last = features[slice(None)][:, -1]
    labels = (last > np.median(last)).astype(np.int32)
    batches = feature_batches(
        [features], np.arange(COUNT), labels, batch_size=20, seed=0, first_epoch=0, epochs=150
    )
    np.testing.assert_array_equal(
        np.sort(np.concatenate([batch["inputs"] for batch in batches.take(2)]), axis=0),
        np.sort(features[slice(None)].astype(np.float32), axis=0),
    )
    trainer.fit(batches, verbose=0)
    logits = classifier(features[slice(None)].astype(np.float32))["logits"].numpy()
    assert (logits.argmax(1) == labels).mean() > 0.9
    moved = np.abs(classifier.get_layer("classifier").kernel.numpy() - start).sum(axis=1)
    assert (moved > 0).all()
    for weight, value in zip(teacher.encoder.weights, before, strict=True):
        np.testing.assert_array_equal(weight.numpy(), value)


@pytest.mark.usefixtures("teachers")
def test_one_file_sees_all_resolutions_of_an_image(examples):
    teacher = load_teacher("small+large")
    sides = (10, 16, 13)
    images = tf.constant(examples.images.array[:6])
    views = [
        tf.stack([render(image, whole_box(), tf.constant(False), side) for image in images])
        for side in sides
    ]
    expected = np.concatenate([teacher.features(each) for each in views], axis=1)
    found = encoder_at_resolutions(teacher.encoder, sides)(tf.cast(images, tf.float32))
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"teacher": "efficientnet_lite0+none"}, "--teacher=none is not known"),
        ({"teacher": "efficientnet_lite0+"}, "--teacher= is not known"),
        ({"teacher": "efficientnet_lite0+efficientnet_lite0"}, "twice"),
        (
            {"teacher": "efficientnet_lite0+keras_cv:resnet18", "teacher_weights": "a.h5"},
            r"gives 1 for the 2 teachers.*--teacher_weights=,<the last",
        ),
        (
            {
                "teacher": "efficientnet_lite0+keras_cv:resnet18",
                "teacher_weights": ",a.h5",
                "teacher_weights_sha256": "00,",
            },
            "--teacher_weights_sha256=00 is given, but --teacher_weights",
        ),
        ({"teacher_layers": 0}, "--teacher_layers=0"),
        ({"teacher_layers": 6}, "--teacher_layers=6"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_is_loaded(given, message):
    with pytest.raises(UserError, match=message):
        TeacherSettings(**given)


def test_weights_files_are_given_in_the_teachers_order(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    both = "keras_cv:resnet18+keras_cv:resnet34+efficientnet_lite0"
    settings = TeacherSettings(
        teacher=both, teacher_weights="~/a.h5,~/b.h5,", teacher_weights_sha256=",ab,"
    )
    found = split_teachers(both, settings.teacher_weights, settings.teacher_weights_sha256)
    assert [tuple(each) for each in found] == [
        ("keras_cv:resnet18", f"{tmp_path}/a.h5", ""),
        ("keras_cv:resnet34", f"{tmp_path}/b.h5", "ab"),
        ("efficientnet_lite0", "", ""),
    ]
    # Of one teacher a comma is a part of the path.
    (one,) = split_teachers("keras_cv:resnet18", "a,b.h5")
    assert one.weights == "a,b.h5"
    # The same network with other weights is another teacher.
    assert len(split_teachers("keras_cv:resnet18+keras_cv:resnet18", "a.h5,b.h5")) == 2


def test_a_plus_among_a_teachers_own_choices_joins_no_teachers():
    names = [choice.name for choice in split_teachers("keras_cv:wide+deep")]
    assert names == ["keras_cv:wide+deep"]
    names = [choice.name for choice in split_teachers("keras_cv:wide+keras_cv:deep")]
    assert names == ["keras_cv:wide", "keras_cv:deep"]

"""Targets computed in every step, compared with targets that were computed once and cached."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest

from candle_tf.data.augment.augmentation import make_augmentation
from candle_tf.data.augment.precomputed_views import PrecomputedViews, same_for_all
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.augment.views import Views, first_views
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.pipeline import REPEATED, training_batches
from candle_tf.data.subset import Subset
from candle_tf.distribute import ALONE, BatchShare
from candle_tf.methods.calibration import online_feature_batches, teacher_classifier
from candle_tf.teachers.feature_parts import join_arrays
from candle_tf.teachers.features import (
    OnlineFeatures,
    cached_features,
    features_key,
    teacher_views,
)
from candle_tf.teachers.targets import OnlineTargets, cached_targets
from tests.teachers.test_features import make_teacher

COUNT, SIDE = 24, 16
RESOLUTIONS = (10, 12, 14)
CLASSES = 3
VIEWS = PrecomputedViews(np.resize([2, 3], COUNT))
AUGMENTATION = make_augmentation(AugmentSettings("pad_crop_flip"), seed=4)


@pytest.fixture(scope="module")
def examples():
    pixels = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    keys = np.array([image_key(str(row)) for row in range(COUNT)], np.int64)
    images = ImageStore(pixels, keys, {str(row): row for row in range(COUNT)}, "digest")
    return Subset(images, np.arange(COUNT)[::-1], np.arange(COUNT, dtype=np.int32))


@pytest.fixture(scope="module")
def classifier():
    return teacher_classifier(6, CLASSES, seed=2)


def compute_targets(teacher, examples, views, classifier, folder, augmentation=AUGMENTATION):
    settings = [(teacher, examples, augmentation, views, side) for side in RESOLUTIONS]
    features = [cached_features(*each, folder) for each in settings]
    keys = [features_key(*each) for each in settings]
    return cached_targets(features, keys, views, classifier, folder)


def online(teacher, examples, classifier):
    return OnlineTargets(OnlineFeatures(teacher, examples, AUGMENTATION, RESOLUTIONS), classifier)


def assert_close(one, two):
    for name in ("teacher_features", "teacher_logits"):
        assert np.abs(one[name]).max() > 0.05
        # float16 has 11 significant bits; logits sum over six features of that precision.
        np.testing.assert_allclose(one[name], two[name], rtol=2e-3, atol=1e-3)


def test_both_give_the_same_batches_for_the_same_views(tmp_path, examples, classifier):
    """Three epochs of images, labels and targets, as the distillation step gets them."""
    sides = []
    for targets in (
        compute_targets(make_teacher(), examples, VIEWS, classifier, tmp_path),
        online(make_teacher(), examples, classifier),
    ):
        batches = training_batches(
            examples,
            image_size=8,
            augmentation=AUGMENTATION,
            batch_size=8,
            seed=4,
            first_epoch=0,
            epochs=3,
            precomputed=VIEWS,
            targets=targets,
        )
        sides.append(list(batches.as_numpy_iterator()))
    assert len(sides[0]) == len(sides[1]) == 9
    for one, two in zip(*sides, strict=True):
        np.testing.assert_array_equal(one["inputs"], two["inputs"])
        np.testing.assert_array_equal(one["labels"], two["labels"])
        assert_close(one, two)


def test_new_views_have_other_targets(examples, classifier):
    targets = online(make_teacher(), examples, classifier)
    images = np.arange(8)
    first, later = (targets.batch(Views(images, np.full(8, number))) for number in (0, 9))
    assert np.abs(first["teacher_features"] - later["teacher_features"]).max() > 0.01


def test_reference_values_are_of_all_kinds_of_view(examples, classifier):
    """As an epoch of the student is: kinds alternate by number, and images begin at several."""
    kinds = AugmentSettings("alternating_crop_flip", mix="mixup", mix_views="half")
    augmentation = make_augmentation(kinds, seed=4)
    features = OnlineFeatures(make_teacher(), examples, augmentation, RESOLUTIONS)
    targets = OnlineTargets(features, classifier)
    images = np.random.default_rng([4, COUNT]).permutation(COUNT)
    epoch = targets.batch(Views(images, augmentation.numbers_at(images, 0)))
    (found,) = targets.blocks()
    assert_close(found, epoch)
    alike = targets.batch(first_views(images))
    assert np.abs(found["teacher_features"] - alike["teacher_features"]).max() > 0.01


def test_the_cache_asks_once_and_online_asks_every_time(tmp_path, examples, classifier):
    teacher = make_teacher()
    for _ in range(3):
        targets = compute_targets(teacher, examples, VIEWS, classifier, tmp_path)
        targets.batch(first_views(np.arange(8)))
    assert sum(map(len, teacher.shown)) == VIEWS.total * len(RESOLUTIONS)
    teacher.shown.clear()
    for _ in range(3):
        online(teacher, examples, classifier).batch(first_views(np.arange(8)))
    assert sum(map(len, teacher.shown)) == 3 * 8 * len(RESOLUTIONS)


def test_targets_are_the_mean_over_resolutions_and_their_logits(tmp_path, examples, classifier):
    targets = compute_targets(make_teacher(), examples, VIEWS, classifier, tmp_path)
    assert (targets.feature_size, targets.classes) == (6, CLASSES)
    assert targets.features.dtype == targets.logits.dtype == np.float16
    views = Views(np.array([5, 0, 23]), np.array([2, 1, 0]))
    seen = OnlineFeatures(make_teacher(), examples, AUGMENTATION, RESOLUTIONS).batch(views)
    mean = np.mean(np.asarray(seen, np.float64), axis=0)
    kernel, bias = classifier.get_weights()
    given = targets.batch(views)
    np.testing.assert_allclose(given["teacher_features"], mean, rtol=2e-3)
    np.testing.assert_allclose(given["teacher_logits"], mean @ kernel + bias, atol=2e-3)


def test_a_whole_image_and_its_mirror_image_have_one_target(tmp_path, examples, classifier):
    whole, views = teacher_views("whole", AUGMENTATION, VIEWS.counts)
    targets = compute_targets(make_teacher(), examples, views, classifier, tmp_path, whole)
    assert targets.features.shape == (COUNT, 6)
    features = OnlineFeatures(make_teacher(), examples, whole, RESOLUTIONS)
    index, zeros = np.arange(COUNT), np.zeros(COUNT, np.int64)
    both = [features.batch(Views(index, zeros, mirror)) for mirror in (False, True)]
    assert np.abs(np.subtract(*both)).max() > 0.01
    wanted = np.mean(np.asarray(both, np.float64), axis=(0, 1))
    for number in (0, 1, 7):
        given = targets.batch(Views(index, np.full(COUNT, number)))
        np.testing.assert_allclose(given["teacher_features"], wanted, rtol=2e-3, atol=1e-4)


def test_another_classifier_is_run_again_and_the_features_stay(tmp_path, examples, classifier):
    before = compute_targets(make_teacher(), examples, VIEWS, classifier, tmp_path)
    teacher = make_teacher()
    other = teacher_classifier(6, CLASSES, seed=3)
    after = compute_targets(teacher, examples, VIEWS, other, tmp_path)
    assert teacher.shown == []
    np.testing.assert_array_equal(after.features, before.features)
    kernel, bias = other.get_weights()
    wanted = np.asarray(after.features, np.float32) @ kernel + bias
    np.testing.assert_allclose(after.logits, wanted, atol=2e-3)


def test_resolutions_side_by_side_are_one_row_cached_and_online(tmp_path, examples):
    teacher, wide = make_teacher(), teacher_classifier(6 * len(RESOLUTIONS), CLASSES, seed=2)
    settings = [(teacher, examples, AUGMENTATION, VIEWS, side) for side in RESOLUTIONS]
    stored, key = join_arrays(
        [cached_features(*each, tmp_path) for each in settings],
        [features_key(*each) for each in settings],
    )
    cached = cached_targets([stored], [key], VIEWS, wide, tmp_path)
    new = OnlineTargets(
        OnlineFeatures(teacher, examples, AUGMENTATION, RESOLUTIONS, concatenate=True), wide
    )
    assert cached.feature_size == new.feature_size == 18
    views = VIEWS.of_rows(np.arange(VIEWS.total))
    assert_close(cached.batch(views), new.batch(views))
    alone = OnlineFeatures(teacher, examples, AUGMENTATION, RESOLUTIONS).batch(views)
    given = new.batch(views)
    np.testing.assert_allclose(
        given["teacher_features"], np.concatenate(alone, axis=1), rtol=1e-5, atol=1e-6
    )
    kernel, bias = wide.get_weights()
    expected = given["teacher_features"] @ kernel + bias
    np.testing.assert_allclose(given["teacher_logits"], expected, rtol=1e-4, atol=1e-5)


def test_calibration_on_new_views_sees_each_image_once_at_all_resolutions(examples):
    features = OnlineFeatures(make_teacher(), examples, AUGMENTATION, RESOLUTIONS, concatenate=True)
    epoch = list(
        online_feature_batches(
            features, examples.labels, batch_size=8, seed=1, first_epoch=1, epochs=2
        ).as_numpy_iterator()
    )
    labels = np.concatenate([batch["labels"] for batch in epoch])
    np.testing.assert_array_equal(np.sort(labels), np.arange(COUNT))
    (wanted,) = features.batch(Views(np.arange(COUNT), np.ones(COUNT, np.int64)))
    inputs = np.concatenate([batch["inputs"] for batch in epoch])
    np.testing.assert_allclose(inputs, wanted[labels], rtol=1e-4, atol=1e-5)


def test_calibration_on_new_views_has_all_kinds_of_view_in_an_epoch(examples):
    crops = make_augmentation(AugmentSettings(augmentation="alternating_crop_flip"), seed=1)
    features = OnlineFeatures(make_teacher(), examples, crops, RESOLUTIONS, concatenate=True)
    batches = online_feature_batches(
        features, examples.labels, batch_size=8, seed=1, first_epoch=1, epochs=2
    )
    numbers = 1 + np.arange(COUNT) % 4
    (wanted,) = features.batch(Views(np.arange(COUNT), numbers))
    for batch in batches.as_numpy_iterator():
        expected = wanted[batch["labels"]]
        np.testing.assert_allclose(batch["inputs"], expected, rtol=1e-4, atol=1e-5)


def test_calibration_on_new_views_sees_an_image_that_is_sampled_again_in_another_view(examples):
    features = OnlineFeatures(make_teacher(), examples, AUGMENTATION, RESOLUTIONS, concatenate=True)
    batches = online_feature_batches(
        features, examples.labels, batch_size=8, seed=1, first_epoch=1, epochs=2,
        sampler="class_balanced",
    )  # fmt: skip
    epoch = list(batches.as_numpy_iterator())
    labels = np.concatenate([batch["labels"] for batch in epoch])
    inputs = np.concatenate([batch["inputs"] for batch in epoch])
    images, times = np.unique(labels, return_counts=True)
    assert times.max() > 1
    for image, shown in zip(images, times, strict=True):
        numbers = 1 + REPEATED * np.arange(shown)
        (wanted,) = features.batch(Views(np.full(shown, image), numbers))
        ours = inputs[labels == image]
        order = [rows.sum(axis=1).argsort() for rows in (ours, wanted)]
        np.testing.assert_allclose(ours[order[0]], wanted[order[1]], rtol=1e-4, atol=1e-5)


def test_blocks_represent_all_targets(tmp_path, examples, classifier):
    views = same_for_all(COUNT, 3)
    stored = compute_targets(make_teacher(), examples, views, classifier, tmp_path)
    blocks = list(stored.blocks())
    np.testing.assert_array_equal(np.concatenate([b["teacher_logits"] for b in blocks]),
                                  stored.logits)  # fmt: skip
    asked = list(online(make_teacher(), examples, classifier).blocks())
    features = np.concatenate([block["teacher_features"] for block in asked])
    first = stored.batch(first_views(np.arange(COUNT)))["teacher_features"]
    np.testing.assert_allclose(
        np.sort(features, axis=0), np.sort(first, axis=0), rtol=2e-3, atol=1e-3
    )


def test_blocks_have_as_many_views_of_each_image(tmp_path, examples, classifier):
    """A mean over all rows is none over the training images, of which some have more rows."""
    counts = np.where(np.arange(COUNT) % 3 == 0, 7, 2)
    views = PrecomputedViews(counts)
    stored = compute_targets(make_teacher(), examples, views, classifier, tmp_path)
    starts = np.cumsum(counts) - counts
    rows = np.sort(np.concatenate([starts, starts + 1]))
    blocks = list(stored.blocks())
    for name, expected in (("features", stored.features), ("logits", stored.logits)):
        found = np.concatenate([block[f"teacher_{name}"] for block in blocks])
        np.testing.assert_array_equal(found, expected[rows])


def test_calibration_on_new_views_sees_each_image_at_each_resolution(examples):
    """The features of a batch are told apart by what the encoder says to its view."""
    teacher = make_teacher()
    features = OnlineFeatures(teacher, examples, AUGMENTATION, RESOLUTIONS)

    def epochs(first_epoch):
        return list(online_feature_batches(
            features, examples.labels, batch_size=8, seed=1, first_epoch=first_epoch, epochs=2
        ).as_numpy_iterator())  # fmt: skip

    seen = epochs(0)
    assert len(seen) == 2 * len(RESOLUTIONS) * COUNT // 8
    for number, epoch in enumerate((seen[:9], seen[9:])):
        labels = np.concatenate([batch["labels"] for batch in epoch])
        np.testing.assert_array_equal(np.sort(labels), np.repeat(np.arange(COUNT), 3))
        inputs = np.concatenate([batch["inputs"] for batch in epoch])
        wanted = features.batch(Views(np.arange(COUNT), np.full(COUNT, number)))
        for image in range(COUNT):
            ours = inputs[labels == image]
            theirs = np.stack([resolution[image] for resolution in wanted])
            order = [side.sum(axis=1).argsort() for side in (ours, theirs)]
            np.testing.assert_allclose(ours[order[0]], theirs[order[1]], rtol=1e-4, atol=1e-5)
    for one, two in zip(epochs(1), seen[9:], strict=True):
        np.testing.assert_array_equal(one["labels"], two["labels"])
        np.testing.assert_allclose(one["inputs"], two["inputs"], rtol=1e-5)


def test_shares_of_calibration_batches_are_the_batches(examples):
    """Each replica's features, computed for its own places alone."""
    features = OnlineFeatures(make_teacher(), examples, AUGMENTATION, RESOLUTIONS)

    def batches(share):
        return list(online_feature_batches(
            features, examples.labels, batch_size=8, seed=1, first_epoch=0, epochs=1, share=share
        ).as_numpy_iterator())  # fmt: skip

    whole = batches(ALONE)
    parts = [batches(BatchShare(range(i, i + 1), 2)) for i in range(2)]
    for expected, first, second in zip(whole, *parts, strict=True):
        np.testing.assert_array_equal(
            np.concatenate([first["labels"], second["labels"]]), expected["labels"]
        )
        joined = np.concatenate([first["inputs"], second["inputs"]])
        np.testing.assert_allclose(joined, expected["inputs"], rtol=1e-4, atol=1e-5)

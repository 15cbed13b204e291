"""The teacher asked in every step, against the teacher that looked once."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest

from candle_tf.data.augment.precomputed_views import FixedViews
from candle_tf.data.augment.transform import Transform
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.pipeline import training_batches
from candle_tf.data.subset import Subset
from candle_tf.methods.calibration import fresh_feature_batches, teacher_classifier
from candle_tf.teachers.cached_targets import cached_targets
from candle_tf.teachers.features import features_key, teacher_views, view_features
from candle_tf.teachers.online_targets import OnlineFeatures, OnlineTargets
from tests.teachers.test_features import make_teacher

COUNT, SIDE = 24, 16
RESOLUTIONS = (10, 12, 14)
CLASSES = 3
VIEWS = FixedViews(Transform("pad_crop_flip"), np.resize([2, 3], COUNT))
SEED = 4


@pytest.fixture(scope="module")
def examples():
    canvas = np.random.default_rng(0).integers(0, 256, (COUNT, SIDE, SIDE, 3), np.uint8)
    keys = np.array([image_key(str(row)) for row in range(COUNT)], np.int64)
    images = ImageStore(canvas, keys, {str(row): row for row in range(COUNT)}, "digest")
    return Subset(images, np.arange(COUNT)[::-1], np.arange(COUNT, dtype=np.int32))


@pytest.fixture(scope="module")
def classifier():
    return teacher_classifier(6, CLASSES, seed=2)


def cached(teacher, examples, views, classifier, folder):
    settings = [(teacher, examples, views, resolution, SEED) for resolution in RESOLUTIONS]
    features = [view_features(*each, folder) for each in settings]
    keys = [features_key(*each) for each in settings]
    return cached_targets(features, keys, views, classifier, folder)


def online(teacher, examples, classifier):
    return OnlineTargets(OnlineFeatures(teacher, examples, VIEWS, RESOLUTIONS, SEED), classifier)


def assert_close(one, two):
    for name in ("teacher_features", "teacher_logits"):
        assert np.abs(one[name]).max() > 0.05
        # float16 has 11 significant bits; logits sum over six features of that precision.
        np.testing.assert_allclose(one[name], two[name], rtol=2e-3, atol=1e-3)


def test_both_give_the_same_batches_for_the_same_views(tmp_path, examples, classifier):
    """Three epochs of images, labels and answers, as the distillation step gets them."""
    sides = []
    for answers in (
        cached(make_teacher(), examples, VIEWS, classifier, tmp_path),
        online(make_teacher(), examples, classifier),
    ):
        batches = training_batches(
            examples,
            image_size=8,
            transform=Transform("pad_crop_flip"),
            batch_size=8,
            seed=SEED,
            first_epoch=0,
            epochs=3,
            fixed_views=VIEWS,
            answers=answers,
        )
        sides.append(list(batches.as_numpy_iterator()))
    assert len(sides[0]) == len(sides[1]) == 9
    for one, two in zip(*sides, strict=True):
        np.testing.assert_array_equal(one["inputs"], two["inputs"])
        np.testing.assert_array_equal(one["labels"], two["labels"])
        assert_close(one, two)


def test_new_views_are_other_answers(examples, classifier):
    answers = online(make_teacher(), examples, classifier)
    index = np.arange(8)
    first, later = (answers.batch(index, np.full(8, number)) for number in (0, 9))
    assert np.abs(first["teacher_features"] - later["teacher_features"]).max() > 0.01


def test_the_cache_asks_once_and_online_asks_every_time(tmp_path, examples, classifier):
    teacher = make_teacher()
    for _ in range(3):
        answers = cached(teacher, examples, VIEWS, classifier, tmp_path)
        answers.batch(np.arange(8), np.zeros(8, np.int64))
    assert sum(map(len, teacher.shown)) == VIEWS.total * len(RESOLUTIONS)
    teacher.shown.clear()
    for _ in range(3):
        online(teacher, examples, classifier).batch(np.arange(8), np.zeros(8, np.int64))
    assert sum(map(len, teacher.shown)) == 3 * 8 * len(RESOLUTIONS)


def test_answers_are_the_mean_over_resolutions_and_their_logits(tmp_path, examples, classifier):
    answers = cached(make_teacher(), examples, VIEWS, classifier, tmp_path)
    assert (answers.feature_size, answers.classes) == (6, CLASSES)
    assert answers.features.dtype == answers.logits.dtype == np.float16
    index, numbers = np.array([5, 0, 23]), np.array([2, 1, 0])
    seen = OnlineFeatures(make_teacher(), examples, VIEWS, RESOLUTIONS, SEED).batch(index, numbers)
    mean = np.mean(np.asarray(seen, np.float64), axis=0)
    kernel, bias = classifier.get_weights()
    given = answers.batch(index, numbers)
    np.testing.assert_allclose(given["teacher_features"], mean, rtol=2e-3)
    np.testing.assert_allclose(given["teacher_logits"], mean @ kernel + bias, atol=2e-3)


def test_a_whole_image_and_its_mirror_image_have_one_answer(tmp_path, examples, classifier):
    views = teacher_views("whole", Transform("pad_crop_flip"), VIEWS.counts)
    answers = cached(make_teacher(), examples, views, classifier, tmp_path)
    assert answers.features.shape == (COUNT, 6)
    looks = OnlineFeatures(make_teacher(), examples, views, RESOLUTIONS, SEED)
    index = np.arange(COUNT)
    both = [looks.batch(index, np.full(COUNT, number)) for number in (0, 1)]
    wanted = np.mean(np.asarray(both, np.float64), axis=(0, 1))
    for number in (0, 1, 7):
        given = answers.batch(index, np.full(COUNT, number))
        np.testing.assert_allclose(given["teacher_features"], wanted, rtol=2e-3, atol=1e-4)


def test_another_classifier_is_asked_anew_and_the_features_stay(tmp_path, examples, classifier):
    before = cached(make_teacher(), examples, VIEWS, classifier, tmp_path)
    teacher = make_teacher()
    other = teacher_classifier(6, CLASSES, seed=3)
    after = cached(teacher, examples, VIEWS, other, tmp_path)
    assert teacher.shown == []
    np.testing.assert_array_equal(after.features, before.features)
    kernel, bias = other.get_weights()
    wanted = np.asarray(after.features, np.float32) @ kernel + bias
    np.testing.assert_allclose(after.logits, wanted, atol=2e-3)


def test_blocks_stand_for_all_answers(tmp_path, examples, classifier):
    stored = cached(make_teacher(), examples, VIEWS, classifier, tmp_path)
    blocks = list(stored.blocks())
    np.testing.assert_array_equal(np.concatenate([b["teacher_logits"] for b in blocks]),
                                  stored.logits)  # fmt: skip
    asked = list(online(make_teacher(), examples, classifier).blocks())
    features = np.concatenate([block["teacher_features"] for block in asked])
    first = stored.batch(np.arange(COUNT), np.zeros(COUNT, np.int64))["teacher_features"]
    np.testing.assert_allclose(
        np.sort(features, axis=0), np.sort(first, axis=0), rtol=2e-3, atol=1e-3
    )


def test_calibration_on_new_views_sees_each_image_at_each_resolution(examples):
    """The features of a batch are told apart by what the encoder says to its view."""
    teacher = make_teacher()
    features = OnlineFeatures(teacher, examples, VIEWS, RESOLUTIONS, SEED)

    def epochs(first_epoch):
        return list(fresh_feature_batches(
            features, examples.labels, batch_size=8, seed=1, first_epoch=first_epoch, epochs=2
        ).as_numpy_iterator())  # fmt: skip

    seen = epochs(0)
    assert len(seen) == 2 * len(RESOLUTIONS) * COUNT // 8
    for number, epoch in enumerate((seen[:9], seen[9:])):
        labels = np.concatenate([batch["labels"] for batch in epoch])
        np.testing.assert_array_equal(np.sort(labels), np.repeat(np.arange(COUNT), 3))
        inputs = np.concatenate([batch["inputs"] for batch in epoch])
        wanted = features.batch(np.arange(COUNT), np.full(COUNT, number))
        for image in range(COUNT):
            ours = inputs[labels == image]
            theirs = np.stack([resolution[image] for resolution in wanted])
            order = [side.sum(axis=1).argsort() for side in (ours, theirs)]
            np.testing.assert_allclose(ours[order[0]], theirs[order[1]], rtol=1e-4, atol=1e-5)
    for one, two in zip(epochs(1), seen[9:], strict=True):
        np.testing.assert_array_equal(one["labels"], two["labels"])
        np.testing.assert_allclose(one["inputs"], two["inputs"], rtol=1e-5)

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.augment.augmentation import make_augmentation
from candle_tf.data.augment.crops import render_views
from candle_tf.data.augment.precomputed_views import PrecomputedViews, same_for_all
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.epoch_steps import steps_per_epoch
from candle_tf.data.images.store import ImageStore, image_key
from candle_tf.data.pipeline import (
    evaluation_batches,
    join_batches,
    training_batches,
    unlabelled_batches,
)
from candle_tf.data.samplers import epoch_order
from candle_tf.data.subset import Subset
from candle_tf.distribute import BatchShare
from candle_tf.teachers.targets import CachedTargets

STORED = 14  # images in the store
COUNT = 10  # images in the subset
SIDE = 16
ROWS = np.random.default_rng(5).permutation(STORED)[:COUNT]
LABELS = np.arange(COUNT, dtype=np.int32) * 3  # tells examples apart
KIND = "pad_crop_flip"
AUGMENTATION = make_augmentation(AugmentSettings(KIND), seed=3)
SETTINGS = {"image_size": 12, "augmentation": AUGMENTATION, "batch_size": 4, "seed": 3}


def store(array: np.ndarray) -> ImageStore:
    ids = [f"train/a/{row}.png" for row in range(len(array))]
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    return ImageStore(array, keys, {image_id: row for row, image_id in enumerate(ids)}, "digest")


def noisy() -> Subset:
    """Images of which no two, and no two views of one, are alike."""
    array = np.random.default_rng(0).integers(0, 256, (STORED, SIDE, SIDE, 3), np.uint8)
    return Subset(store(array), ROWS, LABELS)


def plain() -> Subset:
    """Images of one colour that is ten times their row."""
    values = 10 * np.arange(STORED, dtype=np.uint8)
    array = np.broadcast_to(values[:, None, None, None], (STORED, SIDE, SIDE, 3))
    return Subset(store(array), ROWS, LABELS)


def targets(views: int) -> CachedTargets:
    """Features (view, example, 1) and logits (10 view + example, 0)."""
    return targets_for(same_for_all(COUNT, views))


def targets_for(precomputed: PrecomputedViews) -> CachedTargets:
    views = precomputed.of_rows(np.arange(precomputed.total))
    example, view = views.images, views.numbers
    features = np.stack([view, example, np.ones_like(view)], axis=-1)
    logits = np.stack([10 * view + example, np.zeros_like(view)], axis=-1)
    return CachedTargets(features.astype(np.float16), logits.astype(np.float16), precomputed)


def batches(examples, first_epoch, epochs, **changes):
    if isinstance(changes.get("precomputed"), int):
        changes["precomputed"] = same_for_all(COUNT, changes["precomputed"])
    dataset = training_batches(
        examples, first_epoch=first_epoch, epochs=epochs, **{**SETTINGS, **changes}
    )
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset]


def assert_same(first, second):
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_epoch_order_is_a_permutation_that_changes_with_seed_and_epoch():
    orders = {(seed, epoch): epoch_order(seed, epoch, 50) for seed in (0, 1) for epoch in (0, 1)}
    for order in orders.values():
        assert order.dtype == np.int64
        np.testing.assert_array_equal(np.sort(order), np.arange(50))
    assert len({tuple(order) for order in orders.values()}) == 4
    np.testing.assert_array_equal(epoch_order(1, 1, 50), orders[1, 1])


@pytest.mark.parametrize(
    ("examples", "batch_size", "steps"), [(10, 4, 2), (8, 4, 2), (4, 4, 1), (3, 4, 1), (9, 1, 9)]
)
def test_steps_per_epoch(examples, batch_size, steps):
    assert steps_per_epoch(examples, batch_size) == steps


def test_an_epoch_has_each_example_at_most_once_and_only_full_batches():
    seen = batches(plain(), 0, 3)
    assert len(seen) == 3 * 2
    epochs = [np.concatenate([b["labels"] for b in seen[2 * e : 2 * e + 2]]) for e in range(3)]
    for labels in epochs:
        assert len(labels) == len(set(labels)) == 8
        assert set(labels) <= set(LABELS)
    # Who is left out changes, so that every image is seen in time.
    left_out = [frozenset(LABELS) - set(labels) for labels in epochs]
    assert len(set(left_out)) > 1


def test_batches_have_the_promised_shapes_types_and_range():
    for batch in batches(noisy(), 0, 1, targets=targets(1)):
        assert batch["inputs"].shape == (4, 12, 12, 3)
        assert batch["inputs"].dtype == np.float32
        assert batch["inputs"].min() >= 0
        assert 128 < batch["inputs"].max() <= 255.01
        assert batch["labels"].dtype == np.int32
        assert batch["teacher_features"].shape == (4, 3)
        assert batch["teacher_features"].dtype == np.float32
        assert batch["teacher_logits"].shape == (4, 2)
        assert batch["teacher_logits"].dtype == np.float32
    assert set(batches(noisy(), 0, 1)[0]) == {"inputs", "labels"}


def test_a_set_smaller_than_a_batch_is_one_batch():
    examples = Subset(noisy().images, ROWS[:3], LABELS[:3])
    seen = batches(examples, 0, 2)
    assert [sorted(batch["labels"]) for batch in seen] == [[0, 3, 6], [0, 3, 6]]


def test_labels_belong_to_their_images():
    row_of_label = dict(zip(LABELS.tolist(), ROWS.tolist(), strict=True))
    for batch in batches(plain(), 0, 2):
        for pixels, label in zip(batch["inputs"], batch["labels"], strict=True):
            np.testing.assert_allclose(pixels[6, 6], 10 * row_of_label[int(label)], atol=1e-3)


@pytest.mark.parametrize("precomputed", [None, 2])
def test_a_resumed_run_sees_what_an_uninterrupted_one_sees(precomputed):
    given = {"precomputed": precomputed, "targets": targets(precomputed or 1)}
    whole = batches(noisy(), 0, 4, **given)
    for first_epoch in (1, 3):
        assert_same(whole[2 * first_epoch :], batches(noisy(), first_epoch, 4, **given))
    assert batches(noisy(), 4, 4, **given) == []


@pytest.mark.parametrize("sampler", ["class_balanced", "square_root", "progressive"])
@pytest.mark.parametrize("precomputed", [None, 2])
def test_samplers_resume_and_show_repetitions_in_other_views(sampler, precomputed):
    examples = noisy()
    examples = Subset(examples.images, ROWS, np.r_[np.zeros(8, np.int32), 1, 2].astype("i4"))
    table = same_for_all(COUNT, precomputed) if precomputed else None
    given = {"precomputed": table, "sampler": sampler, "batch_size": COUNT}
    whole = batches(examples, 0, 4, **given)
    assert_same(whole[2:], batches(examples, 2, 4, **given))
    most = 0
    for batch in whole:
        for label in (1, 2):
            views = batch["inputs"][batch["labels"] == label]
            different = len({view.tobytes() for view in views})
            assert different == min(len(views), precomputed or COUNT)
            most = max(most, len(views))
    assert most >= 2


@pytest.mark.parametrize("start", [0.25, 0.75])
def test_a_deferred_sampler_begins_where_it_is_told(start):
    labels = np.r_[np.zeros(8, np.int32), 1, 2].astype("i4")
    examples = Subset(noisy().images, ROWS, labels)
    epochs = batches(
        examples, 0, 4, sampler="deferred_class_balanced", sampler_start=start, batch_size=COUNT
    )
    for epoch, batch in enumerate(epochs):
        shows_each_once = np.array_equal(np.sort(batch["labels"]), labels)
        assert shows_each_once == (epoch < 4 * start)


def test_mixed_batches_carry_both_labels_and_resume():
    settings = AugmentSettings(KIND, color_jitter=0.4, randaugment_magnitude=5, mix="mixup")
    augmentation = make_augmentation(settings, seed=3)
    whole = batches(noisy(), 0, 3, augmentation=augmentation)
    assert set(whole[0]) == {"inputs", "labels", "partner_labels", "ratios"}
    assert_same(whole[2:], batches(noisy(), 1, 3, augmentation=augmentation))
    partners = np.concatenate([batch["partner_labels"] for batch in whole])
    assert len(set(partners.tolist())) > 5


def test_the_number_of_epochs_does_not_change_the_first_ones():
    assert_same(batches(noisy(), 0, 1), batches(noisy(), 0, 3)[:2])


def test_another_epoch_and_another_seed_are_other_views():
    whole = {"batch_size": COUNT}
    first, second = batches(noisy(), 0, 2, **whole)
    other_seed = {"augmentation": replace(AUGMENTATION, seed=4), "seed": 4}
    (other,) = batches(noisy(), 0, 1, **other_seed, **whole)
    for batch in (second, other):
        assert first["labels"].tolist() != batch["labels"].tolist()
        for label in LABELS:
            a, b = (x["inputs"][x["labels"] == label] for x in (first, batch))
            assert np.abs(a - b).mean() > 1


def expected_views(examples, labels, number):
    """Views `number` of the examples with these labels, rendered one batch at a time."""
    rows = ROWS[np.searchsorted(LABELS, labels)]
    return render_views(
        tf.constant(examples.images.array[rows]),
        tf.constant([image_key(f"train/a/{row}.png") for row in rows], tf.int64),
        tf.fill([len(labels)], tf.constant(number, tf.int64)),
        KIND,
        SETTINGS["seed"],
        SETTINGS["image_size"],
    )


@pytest.mark.parametrize("precomputed", [None, 3])
def test_precomputed_take_turns_and_others_are_new_every_epoch(precomputed):
    seen = batches(noisy(), 0, 5, precomputed=precomputed)
    for epoch in range(5):
        number = epoch % 3 if precomputed else epoch
        for batch in seen[2 * epoch : 2 * epoch + 2]:
            wanted = expected_views(noisy(), batch["labels"], number)
            np.testing.assert_allclose(batch["inputs"], wanted, atol=1e-3)


@pytest.mark.parametrize(("precomputed", "stored"), [(3, 3), (None, 1)])
def test_targets_are_those_of_the_image_and_its_view(precomputed, stored):
    seen = batches(noisy(), 1, 6, precomputed=precomputed, targets=targets(stored))
    for epoch, pair in enumerate(zip(seen[::2], seen[1::2], strict=True), start=1):
        view = epoch % 3 if precomputed else 0
        for batch in pair:
            example = batch["labels"] // 3
            wanted = np.stack([np.full(4, view), example, np.ones(4)], axis=1)
            np.testing.assert_array_equal(batch["teacher_features"], wanted)
            logits = np.stack([10 * view + example, np.zeros(4)], axis=1)
            np.testing.assert_array_equal(batch["teacher_logits"], logits)


@pytest.mark.parametrize("precomputed", [None, 3])
def test_second_views_are_others_of_the_same_images_and_change_nothing_else(precomputed):
    given = {"precomputed": precomputed, "targets": targets(precomputed or 1)}
    plain_batches = batches(noisy(), 0, 4, **given)
    seen = batches(noisy(), 0, 4, second_views=True, **given)
    seconds = [batch.pop("second_inputs") for batch in seen]
    assert_same(seen, plain_batches)
    for place, (batch, second) in enumerate(zip(seen, seconds, strict=True)):
        epoch = place // 2
        number = (epoch + 1) % 3 if precomputed else epoch + 2**31 + 1
        wanted = expected_views(noisy(), batch["labels"], number)
        np.testing.assert_allclose(second, wanted, atol=1e-3)
        assert second.dtype == np.float32
        assert np.abs(second - batch["inputs"]).mean() > 1
    resumed = batches(noisy(), 2, 4, second_views=True, **given)
    for batch, second in zip(resumed, seconds[4:], strict=True):
        np.testing.assert_array_equal(batch["second_inputs"], second)


def test_second_views_of_repeated_images_are_others_than_all_first_ones():
    """Of two images, of which an epoch may have one twice; colours tell all views apart."""
    examples = Subset(noisy().images, ROWS[:2], np.array([0, 1], np.int32))
    augmentation = make_augmentation(AugmentSettings("pad_crop", color_jitter=0.4), seed=3)
    given = {"augmentation": augmentation, "sampler": "class_balanced", "batch_size": 2}
    views = [
        view.tobytes()
        for batch in batches(examples, 0, 6, second_views=True, **given)
        for view in (*batch["inputs"], *batch["second_inputs"])
    ]
    assert len(views) == len(set(views)) == 24


def test_images_with_more_views_take_longer_turns():
    views = PrecomputedViews(np.array([1, 2, 3, 4, 5, 1, 2, 3, 4, 5]))
    seen = batches(noisy(), 0, 6, precomputed=views, targets=targets_for(views), batch_size=COUNT)
    for epoch, batch in enumerate(seen):
        example = batch["labels"] // 3
        numbers = epoch % views.counts[example]
        np.testing.assert_array_equal(batch["teacher_features"][:, 0], numbers)
        np.testing.assert_array_equal(batch["teacher_features"][:, 1], example)
        for number in set(numbers):
            chosen = numbers == number
            wanted = expected_views(noisy(), batch["labels"][chosen], number)
            np.testing.assert_allclose(batch["inputs"][chosen], wanted, atol=1e-3)


def test_evaluation_shows_whole_images_in_order_with_a_short_last_batch():
    examples = noisy()
    seen = list(evaluation_batches(examples, image_size=SIDE, batch_size=4))
    assert [len(batch["labels"]) for batch in seen] == [4, 4, 2]
    labels = np.concatenate([batch["labels"] for batch in seen])
    np.testing.assert_array_equal(labels, LABELS)
    inputs = np.concatenate([batch["inputs"] for batch in seen])
    np.testing.assert_allclose(inputs, examples.images.array[ROWS], atol=1e-3)


def test_evaluation_can_be_repeated_and_resizes():
    examples = noisy()
    dataset = evaluation_batches(examples, image_size=8)
    first, second = (next(iter(dataset))["inputs"].numpy() for _ in range(2))
    np.testing.assert_array_equal(first, second)
    array = tf.constant(examples.images.array[ROWS])
    resized = tf.image.resize(array, [8, 8], "bilinear", antialias=True)
    # Whole numbers, as in an 8-bit image.
    np.testing.assert_array_equal(first, np.round(first))
    np.testing.assert_allclose(first, resized, atol=0.501)


def test_shares_of_two_pipelines_are_the_batches_of_one():
    """Every replica's images, views and targets are those of its places in the global batch."""
    given = {"precomputed": same_for_all(COUNT, 3), "targets": targets(3)}
    whole = batches(noisy(), 0, 2, **given)
    parts = [
        batches(noisy(), 0, 2, **given, share=BatchShare(range(i, i + 1), 2)) for i in range(2)
    ]
    assert len(parts[0]) == len(parts[1]) == len(whole)
    for expected, first, second in zip(whole, *parts, strict=True):
        for name in expected:
            joined = np.concatenate([first[name], second[name]])
            np.testing.assert_allclose(joined, expected[name], atol=1e-3)


def test_evaluation_shares_are_all_images_once():
    parts = [
        list(
            evaluation_batches(
                noisy(), image_size=12, batch_size=4, share=BatchShare(range(i, i + 1), 2)
            )
        )
        for i in range(2)
    ]
    labels = [
        np.concatenate([first["labels"], second["labels"]])
        for first, second in zip(*parts, strict=True)
    ]
    np.testing.assert_array_equal(np.concatenate(labels), LABELS)


def batches_without_labels(examples, first_step, steps, **changes):
    dataset = unlabelled_batches(
        examples, first_step=first_step, steps=steps, **{**SETTINGS, **changes}
    )
    return [{name: value.numpy() for name, value in batch.items()} for batch in dataset]


def test_images_without_labels_have_epochs_of_their_own_and_resume_in_the_middle_of_one():
    settings = {"batch_size": 3, "precomputed": same_for_all(COUNT, 2), "targets": targets(2)}
    whole = batches_without_labels(noisy(), 0, 8, **settings)
    assert_same(batches_without_labels(noisy(), 5, 8, **settings), whole[5:])
    # Three batches of three are an epoch; in each an image is seen once, in the epoch's view.
    orders = []
    for epoch in range(2):
        seen = np.concatenate([b["teacher_features"] for b in whole[3 * epoch : 3 * epoch + 3]])
        assert len(set(seen[:, 1])) == 9
        assert set(seen[:, 0]) == {epoch}
        orders.append(seen[:, 1].tolist())
    assert orders[0] != orders[1]
    assert len(batches_without_labels(noisy(), 0, 2, batch_size=40)[1]["inputs"]) == COUNT


def test_the_last_part_of_the_steps_shows_images_without_labels_unmixed():
    mixed = make_augmentation(
        AugmentSettings(KIND, mix="mixup", mix_views="half"), seed=3
    )  # views 2 and 3 of each four are mixed
    settings = {"batch_size": 10, "augmentation": mixed, "precomputed": same_for_all(COUNT, 4)}
    ratios = [
        int((b["ratios"] < 1).sum())
        for b in batches_without_labels(noisy(), 0, 8, unmixed_from=0.5, **settings)
    ]
    # A step is an epoch of all ten images; image i begins with view i mod 4.
    numbers = np.arange(8)[:, np.newaxis] + np.arange(COUNT) % 4
    assert ratios == ((numbers % 4 >= 2).sum(axis=1) * (np.arange(8) < 4)).tolist()
    assert min(ratios[:4]) > 0


def test_joined_batches_hold_both_and_say_which_have_labels():
    first = training_batches(noisy(), first_epoch=0, epochs=1, **SETTINGS)
    second = unlabelled_batches(plain(), first_step=0, steps=2, **{**SETTINGS, "batch_size": 3})
    joined = list(join_batches(first, second))
    assert len(joined) == 2
    for batch, labelled, rest in zip(joined, first, second, strict=True):
        np.testing.assert_array_equal(batch["labelled"], [True] * 4 + [False] * 3)
        np.testing.assert_array_equal(batch["inputs"][:4], labelled["inputs"])
        np.testing.assert_array_equal(batch["labels"][:4], labelled["labels"])
        np.testing.assert_array_equal(batch["inputs"][4:], rest["inputs"])
        assert batch["inputs"].shape == (7, 12, 12, 3)

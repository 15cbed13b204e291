import numpy as np
import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods import losses
from candle_tf.methods.calibration import (
    CalibrationTrainer,
    ScaledLogits,
    build_calibration_loss,
    feature_batches,
    teacher_classifier,
)
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.registry import CALIBRATION_LOSSES
from candle_tf.methods.settings import CalibrationSettings

COUNTS = np.array([60, 15, 4])


def _loss(name: str):
    settings = CalibrationSettings(
        calibration_loss=name, logit_adjustment_tau=1.5, smoothing_head=0.3, smoothing_tail=0.1
    )
    return build_calibration_loss(settings, COUNTS, COUNTS)


def _separable() -> dict[str, np.ndarray]:
    """Long-tailed clusters, far apart."""
    rng = np.random.default_rng(0)
    labels = np.repeat(np.arange(3), COUNTS).astype(np.int32)
    centres = 3 * np.eye(3, 8)
    return {
        "inputs": (centres[labels] + rng.normal(0, 0.3, (len(labels), 8))).astype(np.float32),
        "labels": labels,
    }


@pytest.mark.parametrize("weight_scaling", [False, True])
@pytest.mark.parametrize("name", CALIBRATION_LOSSES)
def test_each_loss_trains_the_classifier(name, weight_scaling):
    classifier = teacher_classifier(8, 3, weight_scaling)
    optimizer = tf.keras.optimizers.Adam(0.05, jit_compile=False)
    group = ParameterGroup(classifier.trainable_variables, optimizer)
    trainer = CalibrationTrainer(classifier, 3, _loss(name), [group])
    data = tf.data.Dataset.from_tensors(_separable())
    before = [variable.numpy() for variable in classifier.trainable_variables]
    first, last = (
        np.array(values)
        for values in trainer.fit(data.repeat(80), steps_per_epoch=1, epochs=80, verbose=0).history[
            "objective"
        ][::79]
    )
    floor = np.mean(_smallest_possible(name))
    assert last - floor < 0.2 * (first - floor)
    assert trainer.evaluate(data, verbose=0, return_dict=True)["mean_class_accuracy"] == 1.0
    for old, variable in zip(before, classifier.trainable_variables, strict=True):
        assert np.abs(old - variable.numpy()).max() > 1e-3, variable.name


def _smallest_possible(name: str) -> np.ndarray:
    """Smoothed labels cannot be fitted below their own entropy."""
    if name != "label_aware_smoothing":
        return np.zeros(1)
    eps = losses.smoothing_rates(COUNTS, 0.3, 0.1)[_separable()["labels"]]
    return -(1 - eps) * np.log(1 - eps) - eps * np.log(eps / 2)


def test_names_stand_for_their_losses_and_settings():
    rng = np.random.default_rng(1)
    logits = tf.constant(rng.normal(size=(12, 3)), tf.float32)
    labels = rng.integers(0, 3, 12)
    expected = {
        "cross_entropy": losses.cross_entropy(logits, labels),
        "balanced_softmax": losses.balanced_softmax(logits, labels, COUNTS),
        "logit_adjustment": losses.logit_adjustment(logits, labels, COUNTS, 1.5),
        "label_aware_smoothing": losses.label_aware_smoothing(
            logits, labels, losses.smoothing_rates(COUNTS, head=0.3, tail=0.1)
        ),
    }
    assert set(expected) == set(CALIBRATION_LOSSES)
    for name, values in expected.items():
        np.testing.assert_allclose(_loss(name)(logits, labels), values, rtol=1e-6)


def test_losses_that_correct_for_frequency_do_so_for_how_often_classes_are_shown():
    rng = np.random.default_rng(1)
    logits = tf.constant(rng.normal(size=(12, 3)), tf.float32)
    labels = rng.integers(0, 3, 12)
    shown = COUNTS * np.array([1, 3, 9])
    settings = {"logit_adjustment_tau": 1.5, "smoothing_head": 0.3, "smoothing_tail": 0.1}
    for name in CALIBRATION_LOSSES:
        chosen = CalibrationSettings(calibration_loss=name, **settings)
        found, alike, more = (
            build_calibration_loss(chosen, COUNTS, counts)(logits, labels).numpy()
            for counts in (shown, 1.0 * COUNTS, 7 * COUNTS)
        )
        np.testing.assert_array_equal(alike, _loss(name)(logits, labels))
        np.testing.assert_allclose(more, alike, rtol=1e-5)
        if name in ("balanced_softmax", "logit_adjustment"):
            power = (shown / shown.sum()) ** (1.5 if name == "logit_adjustment" else 1.0)
            weighted = power * np.exp(logits.numpy())
            expected = -np.log(weighted[np.arange(12), labels] / weighted.sum(axis=1))
            np.testing.assert_allclose(found, expected, rtol=1e-5)
        else:
            # How much a label is smoothed is a matter of how many images a class has.
            np.testing.assert_array_equal(found, alike)


def test_another_name_is_refused():
    with pytest.raises(UserError, match="--calibration_loss=focal"):
        _loss("focal")


def test_scaled_logits_multiply_each_class_by_a_positive_factor():
    layer = ScaledLogits()
    logits = np.random.default_rng(2).normal(size=(4, 3)).astype(np.float32)
    np.testing.assert_array_equal(layer(logits), logits)
    scales = np.array([-2.0, 0.0, 1.5], np.float32)
    layer.log_scale.assign(scales)
    np.testing.assert_allclose(layer(logits), logits * np.exp(scales), rtol=1e-6)


def test_classifier_has_a_scale_only_where_it_is_asked_for():
    plain, scaled = teacher_classifier(8, 3), teacher_classifier(8, 3, weight_scaling=True)
    assert plain.count_params() == 8 * 3 + 3
    assert scaled.count_params() == 8 * 3 + 3 + 3
    np.testing.assert_array_equal(plain.get_weights()[0], scaled.get_weights()[0])
    other = teacher_classifier(8, 3, seed=1)
    assert not np.allclose(plain.get_weights()[0], other.get_weights()[0])


VIEWS, IMAGES = 3, 10


def _features_and_labels() -> tuple[list[np.ndarray], np.ndarray]:
    """Two resolutions; each feature vector says which (resolution, view, image) it is of."""
    grids = np.stack(np.meshgrid(np.arange(VIEWS), np.arange(IMAGES), indexing="ij"), axis=-1)
    rows = grids.reshape(-1, 2)
    features = [
        np.concatenate([np.full((len(rows), 1), number), rows], axis=-1).astype(np.float16)
        for number in range(2)
    ]
    return features, (100 + rows[:, 1]).astype(np.int32)


def _epochs(
    batch_size: int, first_epoch: int, epochs: int, seed: int = 0, rows: np.ndarray | None = None
) -> list[np.ndarray]:
    """One array [steps, B, 4] per epoch: resolution, view, image, label of each example."""
    features, labels = _features_and_labels()
    rows = np.arange(len(labels)) if rows is None else rows
    dataset = feature_batches(
        features,
        rows,
        labels[rows],
        batch_size=batch_size,
        seed=seed,
        first_epoch=first_epoch,
        epochs=epochs,
    )
    batches = [
        np.concatenate([batch["inputs"], batch["labels"][:, np.newaxis]], axis=1)
        for batch in dataset.as_numpy_iterator()
    ]
    return np.array_split(np.stack(batches), epochs - first_epoch)


def test_an_epoch_takes_everything_exactly_once_where_batches_divide_it():
    for epoch in _epochs(batch_size=12, first_epoch=0, epochs=3):
        rows = epoch.reshape(-1, 4)
        assert epoch.shape == (5, 12, 4)
        taken = {tuple(row[:3]) for row in rows.astype(int).tolist()}
        assert taken == {(r, v, p) for r in range(2) for v in range(VIEWS) for p in range(IMAGES)}
        np.testing.assert_array_equal(rows[:, 3], rows[:, 2] + 100)


def test_an_epoch_takes_the_rows_that_are_asked_for_and_no_others():
    rows = np.arange(VIEWS * IMAGES).reshape(VIEWS, IMAGES)[::2].ravel()  # even views
    (epoch,) = _epochs(batch_size=4, first_epoch=0, epochs=1, rows=rows)
    found = epoch.reshape(-1, 4)
    taken = {tuple(row[:3]) for row in found.astype(int).tolist()}
    every = {(r, v, p) for r in range(2) for v in range(0, VIEWS, 2) for p in range(IMAGES)}
    assert len(found) == len(taken) == len(every) // 4 * 4
    assert taken <= every
    np.testing.assert_array_equal(found[:, 3], found[:, 2] + 100)


def test_classes_are_sampled_alike_at_every_resolution():
    features, _ = _features_and_labels()
    # 24 rows of class 0, and 6 of class 1.
    labels = np.repeat(np.array([0, 1], np.int32), [24, 6])
    counts = np.zeros((2, 2))
    for batch in feature_batches(
        features, np.arange(30), labels, batch_size=10, seed=0, first_epoch=0, epochs=20,
        sampler="class_balanced",
    ).as_numpy_iterator():  # fmt: skip
        resolutions = batch["inputs"][:, 0].astype(int)
        rows = (batch["inputs"][:, 1] * IMAGES + batch["inputs"][:, 2]).astype(int)
        np.testing.assert_array_equal(batch["labels"], labels[rows])
        np.add.at(counts, (resolutions, batch["labels"]), 1)
    assert counts.sum() == 20 * 60
    # Of 1,200 draws; four standard errors of a half and of a quarter.
    assert abs(counts[:, 0].sum() / 1200 - 0.5) < 4 * np.sqrt(0.25 / 1200)
    assert np.abs(counts / 1200 - 0.25).max() < 4 * np.sqrt(0.1875 / 1200)


def test_an_epoch_takes_nothing_twice_and_leaves_less_than_a_batch():
    (epoch,) = _epochs(batch_size=16, first_epoch=0, epochs=1)
    assert epoch.shape == (3, 16, 4)
    assert len({tuple(row) for row in epoch.reshape(-1, 4).tolist()}) == 48


def test_a_batch_larger_than_everything_is_everything():
    (epoch,) = _epochs(batch_size=500, first_epoch=0, epochs=1)
    assert epoch.shape == (1, 60, 4)


def test_order_depends_on_seed_and_epoch_alone():
    whole = _epochs(batch_size=16, first_epoch=0, epochs=4)
    resumed = _epochs(batch_size=16, first_epoch=2, epochs=4)
    np.testing.assert_array_equal(resumed, whole[2:])
    assert not np.array_equal(whole[0], whole[1])
    assert not np.array_equal(whole, _epochs(batch_size=16, first_epoch=0, epochs=4, seed=1))

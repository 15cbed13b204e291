"""The k largest logits and the rest: against the loss of all logits, in NumPy and float64."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.augment.precomputed_views import same_for_all
from candle_tf.data.augment.views import first_views
from candle_tf.errors import UserError
from candle_tf.methods.calibration import teacher_classifier
from candle_tf.methods.losses import kl_divergence
from candle_tf.teachers.targets import cached_targets
from candle_tf.teachers.top_k import TopKLogits, select_top_k

CLASSES, ROWS = 500, 12
# Of float16 logits below 16: half of 2^-7 each.
ROUNDING = 2**-8


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def _kl(teacher: np.ndarray, student: np.ndarray, temperature: float) -> np.ndarray:
    p, q = _softmax(teacher / temperature), _softmax(student / temperature)
    return temperature**2 * np.sum(p * (np.log(p) - np.log(q)), axis=1)


def _logits(scale: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).gumbel(0, scale, (ROWS, CLASSES)).clip(-15, 15)


@pytest.mark.parametrize("temperature", [1.0, 2.0, 4.0])
@pytest.mark.parametrize("k", [1, 20, 499])
def test_the_loss_and_its_gradient_are_off_by_no_more_than_is_stated(k, temperature):
    teacher, student = _logits(2.0, 0), _logits(1.5, 1)
    stored = TopKLogits(select_top_k(teacher, k, temperature), CLASSES, temperature)
    read = stored[:]
    assert read.shape == stored.shape == (ROWS, CLASSES)

    p = _softmax(teacher / temperature)
    order = np.argsort(-teacher, axis=1)
    m = np.take_along_axis(p, order[:, k:], axis=1).sum(axis=1)
    np.testing.assert_allclose(stored.rest(slice(None)), m, rtol=2 * ROUNDING, atol=1e-12)

    variable = tf.Variable(student, dtype=tf.float32)
    with tf.GradientTape() as tape:
        loss = kl_divergence(tf.constant(read), variable, temperature)
        total = tf.reduce_sum(loss)
    gradient = tape.gradient(total, variable).numpy()
    exact = temperature * (_softmax(student / temperature) - p)
    slack = 2 * temperature * ROUNDING / temperature + 1e-5
    off = np.abs(gradient - exact).sum(axis=1)
    assert (off <= 2 * temperature * m + slack).all()

    others = np.take_along_axis(student, order[:, k:], axis=1)
    spread = np.ptp(others, axis=1) / temperature
    bound = temperature**2 * m * (np.log(CLASSES - k) + spread)
    value_slack = temperature**2 * ROUNDING / temperature * (2 + 15 / temperature)
    assert (np.abs(loss.numpy() - _kl(teacher, student, temperature)) <= bound + value_slack).all()


def test_a_rest_of_equal_logits_is_exact():
    teacher = np.full((ROWS, CLASSES), -1.5)
    teacher[:, 7:10] = [4.0, 6.0, 5.0]
    read = TopKLogits(select_top_k(teacher, 3, 2.0), CLASSES, 2.0)[:]
    np.testing.assert_allclose(read, teacher, atol=1e-5)


def test_the_largest_logits_are_kept_in_any_order_of_classes():
    teacher = _logits(2.0, 3)
    stored = TopKLogits(select_top_k(teacher, 5, 2.0), CLASSES, 2.0)
    read = stored[np.array([4, 2, 2])]
    for row, source in zip(read, (4, 2, 2), strict=True):
        best = np.argsort(-teacher[source])[:5]
        np.testing.assert_allclose(row[best], teacher[source, best], atol=ROUNDING)
        assert (np.delete(row, best) < row[best].min()).all()
    # 2 bytes a logit, 2 a class, 4 for the rest.
    assert stored.bytes_per_row == 5 * 4 + 4


def test_cached_targets_store_the_largest_alone(tmp_path):
    rng = np.random.default_rng(0)
    features = rng.normal(size=(ROWS, 8)).astype(np.float16)
    classifier = teacher_classifier(8, CLASSES, seed=1)
    views, keys = same_for_all(ROWS), [{"of": "these"}]
    folders = [tmp_path / name for name in ("all", "largest")]
    every = cached_targets([features], keys, views, classifier, folders[0])
    some = cached_targets(
        [features], keys, views, classifier, folders[1], top_k=10, temperature=2.0
    )
    whole, largest = (t.batch(first_views(np.arange(ROWS))) for t in (every, some))
    np.testing.assert_array_equal(whole["teacher_features"], largest["teacher_features"])
    assert largest["teacher_logits"].dtype == np.float32
    for ours, theirs in zip(largest["teacher_logits"], whole["teacher_logits"], strict=True):
        best = np.argsort(-theirs)[:10]
        np.testing.assert_array_equal(ours[best], theirs[best])
    mass = _softmax(largest["teacher_logits"] / 2.0), _softmax(whole["teacher_logits"] / 2.0)
    best = np.argsort(-whole["teacher_logits"], axis=1)[:, :10]
    kept = [np.take_along_axis(p, best, axis=1).sum(axis=1) for p in mass]
    np.testing.assert_allclose(*kept, rtol=1e-3)
    assert some.classes == every.classes == CLASSES
    assert not list(folders[1].glob("targets-logits*"))
    blocks = np.concatenate([block["teacher_logits"] for block in some.blocks()])
    np.testing.assert_array_equal(blocks, largest["teacher_logits"])


def test_another_temperature_in_the_same_cache_has_the_rest_of_its_own(tmp_path):
    features = np.random.default_rng(0).normal(0, 10, (ROWS, 8)).astype(np.float16)
    classifier = teacher_classifier(8, CLASSES, seed=1)
    for temperature in (2.0, 4.0):
        targets = cached_targets(
            [features], [{"of": "these"}], same_for_all(ROWS), classifier, tmp_path,
            top_k=10, temperature=temperature,
        )  # fmt: skip
        p = _softmax(classifier(features.astype(np.float32))["logits"].numpy() / temperature)
        expected = np.sort(p, axis=1)[:, :-10].sum(axis=1)
        assert isinstance(targets.logits, TopKLogits)
        np.testing.assert_allclose(targets.logits.rest(slice(None)), expected, rtol=1e-3)


def test_the_rest_keeps_its_probability_under_the_softmax_at_the_temperature_alone():
    """Why losses of other probabilities are refused: see `Config`."""
    logits = np.random.default_rng(0).normal(0, 4, (16, 40)).astype(np.float16).astype(np.float32)
    stored = TopKLogits(select_top_k(logits, 8, 2.0), 40, 2.0)[np.arange(16)]
    others = np.argsort(-logits, axis=1)[:, 8:]

    def rest(values: np.ndarray) -> np.ndarray:
        return np.take_along_axis(_softmax(values), others, axis=1).sum(axis=1)

    np.testing.assert_allclose(rest(stored / 2.0), rest(logits / 2.0), rtol=1e-4)
    # Spread evenly, it is the largest that powers of it can have.
    assert (rest(0.5 * stored / 2.0) > 1.04 * rest(0.5 * logits / 2.0)).all()


def test_stored_logits_contradict_an_online_teacher():
    with pytest.raises(UserError, match="--teacher_top_k=5 contradicts --teacher_mode=online"):
        Config(teacher_top_k=5, teacher_mode="online", teacher_view="same")

import numpy as np
import pytest
import tensorflow as tf
from sklearn.metrics import balanced_accuracy_score

from candle_tf.methods.class_accuracy import MeanClassAccuracy


def _outputs(labels, classes: int = 4, seed: int = 0):
    """Logits that are right about half of the time."""
    rng = np.random.default_rng(seed)
    labels = np.asarray(labels, np.int32)
    logits = rng.normal(size=(len(labels), classes)).astype(np.float32)
    logits[np.arange(len(labels)), labels] += 0.8
    return labels, logits


LONG_TAILED = np.repeat([0, 1, 2, 3], [200, 40, 9, 2])


def test_equals_sklearns_balanced_accuracy_over_batches():
    labels, logits = _outputs(LONG_TAILED)
    order = np.random.default_rng(1).permutation(len(labels))
    metric = MeanClassAccuracy(4)
    for rows in np.array_split(order, 7):
        metric.update_state(tf.constant(labels[rows]), tf.constant(logits[rows]))
    expected = balanced_accuracy_score(labels, logits.argmax(axis=1))
    overall = (labels == logits.argmax(axis=1)).mean()
    assert metric.result().numpy() == pytest.approx(expected, rel=1e-6)
    assert abs(expected - overall) > 0.01


def test_classes_without_images_do_not_count():
    labels, logits = _outputs([0] * 30 + [3] * 10)
    metric = MeanClassAccuracy(4)
    metric.update_state(labels, logits)
    hits = labels == logits.argmax(axis=1)
    expected = (hits[:30].mean() + hits[30:].mean()) / 2
    assert metric.result().numpy() == pytest.approx(expected, rel=1e-6)


def test_reset_forgets():
    metric = MeanClassAccuracy(4)
    assert metric.result().numpy() == 0
    metric.update_state(*_outputs(LONG_TAILED))
    assert metric.result().numpy() > 0
    metric.reset_state()
    assert metric.result().numpy() == 0
    labels, logits = _outputs(LONG_TAILED, seed=5)
    metric.update_state(labels, logits)
    expected = balanced_accuracy_score(labels, logits.argmax(axis=1))
    assert metric.result().numpy() == pytest.approx(expected, rel=1e-6)


def test_weights_are_refused():
    with pytest.raises(ValueError, match="sample_weight"):
        MeanClassAccuracy(2).update_state([0], [[1.0, 0.0]], [1.0])

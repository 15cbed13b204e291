"""Which images the correction of a student is measured on."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from scipy.special import softmax

from candle_tf.data.pipeline import evaluation_batches
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.prepare import prepare
from candle_tf.stages.prior_correction import (
    correct_student,
    correct_validation_logits,
    refuse_missing_bias,
)
from tests.stages.test_baselines import configure, layer_weights
from tests.stages.test_train import one_block_student  # noqa: F401


def student_and_data(tmp_path, **settings):
    """Settings, data, and a student whose classifier prefers some classes."""
    config = configure(tmp_path, "candle", **settings)
    data = prepare(config, open_run_folder(config))
    student = config.student.build(data.classes)
    layer = student.get_layer("logits")
    rng = np.random.default_rng(0)
    layer.kernel.assign(rng.normal(size=layer.kernel.shape))
    layer.bias.assign(rng.normal(size=layer.bias.shape))
    return config, data, student


def logits_of(config, subset, student) -> np.ndarray:
    batches = evaluation_batches(subset, image_size=config.student.image_size)
    return np.concatenate([student(each["inputs"], training=False)["logits"] for each in batches])


def log_p(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = softmax(logits.astype(np.float64), axis=1)
    return np.log(np.mean([p[labels == c].mean(axis=0) for c in np.unique(labels)], axis=0))


def without(subset: Subset, label: int) -> Subset:
    kept = subset.labels != label
    return Subset(subset.images, subset.rows[kept], subset.labels[kept])


def test_without_validation_images_it_is_measured_on_those_for_training(tmp_path):
    config, data, student = student_and_data(
        tmp_path, validation_fraction=0, select_epoch="last", prior_correction="0.5"
    )
    expected = 0.5 * log_p(logits_of(config, data.train, student), data.train.labels)
    _, before = layer_weights(student.get_layer("logits"))
    correct_student(config, data, student)
    _, after = layer_weights(student.get_layer("logits"))
    np.testing.assert_allclose(before - after, expected, rtol=1e-4, atol=1e-5)


def test_a_class_without_validation_images_has_those_for_training(tmp_path):
    """Left out of the mean, the class would be preferred."""
    config, data, student = student_and_data(tmp_path, validation_fraction=0.3)
    data = replace(data, validation=without(data.validation, 3))
    logits = logits_of(config, data.validation, student)
    of_class = data.train.labels == 3
    more = logits_of(config, data.train, student)[of_class]
    labels = np.concatenate([data.validation.labels, np.full(len(more), 3)])
    expected = log_p(np.concatenate([logits, more]), labels)
    _, before = layer_weights(student.get_layer("logits"))
    correct_student(config, data, student)
    _, after = layer_weights(student.get_layer("logits"))
    np.testing.assert_allclose(before - after, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("strength", ["0.5", "auto"])
def test_validation_images_are_told_with_a_correction_by_the_others(tmp_path, strength):
    config, data, student = student_and_data(
        tmp_path, validation_fraction=0.3, prior_correction=strength
    )
    trained = logits_of(config, data.validation, student)
    _, before = layer_weights(student.get_layer("logits"))
    found = correct_student(config, data, student)
    _, after = layer_weights(student.get_layer("logits"))
    told = np.concatenate([*correct_validation_logits(config, data, student, after - before)])
    _, still = layer_weights(student.get_layer("logits"))
    np.testing.assert_array_equal(still, after)
    labels, part = data.validation.labels, np.zeros(len(trained), int)
    for c in range(data.classes):
        members = np.flatnonzero(labels == c)
        assert len(members) > 1
        part[members] = np.arange(len(members)) % 5
    whole = log_p(trained, labels)
    t = 0.5 if strength == "0.5" else np.median((before - after) / whole)
    assert found == pytest.approx(t, abs=1e-3)
    for own in range(5):
        expected = trained[part == own] - t * log_p(trained[part != own], labels[part != own])
        np.testing.assert_allclose(told[part == own], expected, rtol=1e-3, atol=1e-3)


def test_a_classifier_without_bias_is_refused_before_it_is_trained(tmp_path):
    config = configure(tmp_path, "candle")
    student = SimpleNamespace(get_layer=lambda _: SimpleNamespace(bias=None))
    with pytest.raises(UserError, match=r"without bias.*--prior_correction=0"):
        refuse_missing_bias(config, student)
    refuse_missing_bias(config.replace(prior_correction="0"), student)

"""Figures that the report computes itself."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.calibration import teacher_classifier
from candle_tf.stages.report import _norms

SCALES = np.array([0.5, 2.0, 8.0])


def student(kernel: np.ndarray) -> tf.keras.Model:
    features = tf.keras.Input([len(kernel)])
    model = tf.keras.Model(features, tf.keras.layers.Dense(3, name="logits")(features))
    model.set_weights([kernel, np.ones(3)])
    return model


@pytest.mark.parametrize("weight_scaling", [False, True])
def test_weight_norms_are_of_what_the_classifiers_compute(weight_scaling):
    random = np.random.default_rng(0)
    taught, learned = random.normal(size=(2, 5, 3))
    classifier = teacher_classifier(5, 3, weight_scaling)
    classifier.get_layer("classifier").set_weights([taught, random.normal(size=3)])
    if weight_scaling:
        classifier.get_layer("weight_scaling").set_weights([np.log(SCALES)])
    calibrated: Any = SimpleNamespace(classifier=classifier)
    trained: Any = SimpleNamespace(student=student(learned))
    norms = _norms(calibrated, trained)
    expected = np.sqrt((taught**2).sum(axis=0)) * (SCALES if weight_scaling else 1)
    np.testing.assert_allclose(norms["teacher"], expected, rtol=1e-5)
    np.testing.assert_allclose(norms["student"], np.sqrt((learned**2).sum(axis=0)), rtol=1e-5)
    assert set(_norms(None, trained)) == {"student"}

"""The teacher's int8 file against the teacher itself."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.tflite.converter import run_litert
from candle_tf.deploy.tflite.teacher import convert_teacher
from candle_tf.methods.calibration import teacher_classifier
from tests.teachers.test_features import make_teacher

SIDE = 24


@pytest.fixture(scope="module")
def converted():
    """A tiny teacher with its classifier, images, and the file."""
    encoder = make_teacher().encoder
    classifier = teacher_classifier(6, 5, weight_scaling=False, seed=0)
    dense = classifier.get_layer("classifier")
    dense.kernel.assign(np.random.default_rng(0).normal(0, 3, (6, 5)))
    images = np.random.default_rng(1).integers(0, 256, (40, SIDE, SIDE, 3), np.uint8)
    # Images of different brightness, so that features differ.
    images = (images * np.linspace(0.05, 1, 40)[:, None, None, None]).astype(np.uint8)
    return encoder, classifier, images, convert_teacher(encoder, classifier, images)


def test_the_file_computes_what_the_teacher_computes_up_to_8_bits(converted):
    encoder, classifier, images, flatbuffer = converted
    expected = classifier(encoder(images.astype(np.float32)))["logits"].numpy()
    found = run_litert(flatbuffer, images)
    assert found.shape == expected.shape == (40, 5)
    assert np.abs(found - expected).max() < 0.05 * np.ptp(expected)
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > 0.995


def test_weights_and_activations_are_integers(converted):
    *_, flatbuffer = converted
    interpreter = tf.lite.Interpreter(model_content=flatbuffer)
    assert interpreter.get_input_details()[0]["dtype"] == np.uint8
    types = [details["dtype"] for details in interpreter.get_tensor_details()]
    output = interpreter.get_output_details()[0]["index"]
    floats = [
        details["index"]
        for details in interpreter.get_tensor_details()
        if details["dtype"] == np.float32
    ]
    assert floats == [output]
    assert np.int8 in types


def test_a_conversion_that_runs_well_says_nothing(converted, capfd, recwarn):
    encoder, classifier, images, _ = converted
    convert_teacher(encoder, classifier, images[:2])
    assert not [each for each in recwarn if "Statistics" in str(each.message)]
    assert "fully_quantize" not in capfd.readouterr().err


def test_no_image_is_refused(converted):
    encoder, classifier, images, _ = converted
    with pytest.raises(ValueError, match="at least one image"):
        convert_teacher(encoder, classifier, images[:0])

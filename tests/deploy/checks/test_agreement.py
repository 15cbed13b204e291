import numpy as np
import pytest

from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.errors import ExportError
from candle_tf.deploy.checks.operators import check_binary
from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.errors import UserError
from tests.deploy.test_binarize import (
    CLASSES,
    changed_student,
    logits_of,
    one_hot,
    photographs,
    small_student,
)


@pytest.fixture(scope="module")
def flatbuffer() -> bytes:
    return convert(small_student())


def test_a_sound_file_passes_both_checks(flatbuffer):
    counts = check_binary(flatbuffer, small_student())
    assert counts["LceBconv2d"] == 5
    expected = logits_of(small_student())
    agreement = check_agreement(expected, run(flatbuffer, photographs()), "file")
    assert agreement.images == len(photographs())
    assert agreement.argmax_agreement == 1.0
    assert agreement.untouched_difference <= agreement.median_difference < 1e-5


@pytest.mark.parametrize(
    ("layer", "attribute", "change"),
    [
        ("block01_spatial_conv", "kernel", np.negative),
        ("block02_point_left_conv", "kernel", lambda kernel: kernel * _flip_one_sign(kernel.shape)),
        ("block02_point_right_bn", "moving_mean", lambda mean: mean + 0.5 * one_hot(mean.shape)),
        ("block01_point_bn", "moving_variance", lambda variance: variance * 1.1),
        ("logits", "bias", lambda bias: bias + 0.05 * one_hot(bias.shape)),
    ],
)
def test_a_file_with_other_weights_is_refused(layer, attribute, change):
    # The file's parity with Keras is tested above; one conversion for each would take minutes.
    wrong = logits_of(changed_student(layer, attribute, change))
    with pytest.raises(ExportError, match="does not compute what the student computes"):
        check_agreement(logits_of(small_student()), wrong, "file")


def test_a_converted_file_with_other_weights_is_refused():
    wrong = convert(changed_student("block01_spatial_conv", "kernel", np.negative))
    with pytest.raises(ExportError, match=r"student\.tflite does not compute"):
        check_agreement(logits_of(small_student()), run(wrong, photographs()), "student.tflite")


@pytest.mark.parametrize(
    "change",
    [
        lambda outputs: outputs[::-1],
        lambda outputs: outputs[:, ::-1],
        lambda outputs: np.full_like(outputs, np.nan),
        lambda outputs: np.where(np.arange(len(outputs))[:, None] == 3, np.nan, outputs),
        lambda outputs: outputs[:-1],
        lambda outputs: outputs[:0],
    ],
    ids=["images", "classes", "nan", "one_nan", "missing", "none"],
)
def test_wrong_outputs_are_refused(change):
    expected = logits_of(small_student())
    with pytest.raises(ExportError):
        check_agreement(expected, change(expected), "file")


def _random_outputs(images: int) -> np.ndarray:
    outputs = np.random.default_rng(0).uniform(-0.5, 0.5, (images, CLASSES))
    outputs[np.arange(images), np.arange(images) % CLASSES] = 1.0
    return outputs


def test_sign_flips_on_some_images_are_forgiven_and_reported():
    expected = _random_outputs(100)
    actual = expected.copy()
    actual[:90] += 0.02
    agreement = check_agreement(expected, actual, "file")
    assert agreement.untouched_difference == 0.0
    assert agreement.largest_difference == pytest.approx(0.02)
    with pytest.raises(ExportError, match="2 % quantile"):
        check_agreement(expected, expected + 0.02, "file")
    actual[:60] += 0.5
    with pytest.raises(ExportError, match="median"):
        check_agreement(expected, actual, "file")


def test_one_image_in_a_hundred_may_change_its_class_but_not_two():
    expected = _random_outputs(100)
    actual = expected.copy()
    actual[0] = np.roll(actual[0], 1)
    assert check_agreement(expected, actual, "file").argmax_agreement == 0.99
    actual[1] = np.roll(actual[1], 1)
    with pytest.raises(ExportError, match="2 images have another class"):
        check_agreement(expected, actual, "file")


def test_a_tie_that_rounding_decides_does_not_count():
    expected = _random_outputs(10)
    expected[:5, 3] = 1.0
    expected[:5, 4] = 1.0 - 1e-6
    actual = expected.copy()
    actual[:5, 4] += 2e-6
    agreement = check_agreement(expected, actual, "file")
    assert agreement.decided == 5
    assert agreement.argmax_agreement == 1.0


def _flip_one_sign(shape: tuple[int, ...]) -> np.ndarray:
    signs = np.ones(shape, np.float32)
    signs[0, 0, 0, 0] = -1
    return signs


def test_export_errors_are_the_users_to_fix():
    assert issubclass(ExportError, UserError)

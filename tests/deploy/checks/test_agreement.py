import shutil

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.checks import agreement as verify
from candle_tf.deploy.checks.agreement import (
    ExportError,
    check_agreement,
    check_binary,
    check_saved_model,
)
from candle_tf.deploy.saved_model.writer import export_saved_model
from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.errors import UserError
from candle_tf.students.layers.blocks import batch_norm, binary_conv
from candle_tf.students.layers.quantizers import ApproxSign, ScaledSign
from tests.deploy.test_binarize import (
    CLASSES,
    SIZE,
    logits_of,
    photographs,
    randomize,
    small_student,
    untrained_student,
)


@pytest.fixture(scope="module")
def flatbuffer() -> bytes:
    return convert(small_student())


def _changed_student(layer: str, attribute: str, change) -> tf.keras.Model:
    student = untrained_student()
    student.set_weights(small_student().get_weights())
    variable = getattr(student.get_layer(layer), attribute)
    variable.assign(change(variable.numpy()))
    return student


def _chain(first_pad: float = 1.0, first_sign: bool = True) -> tf.keras.Model:
    """Two binary convolutions, the first of which can be written so that it turns to float."""
    pixels = tf.keras.Input((8, 8, 3), name="pixels")
    x = tf.keras.layers.Conv2D(32, 3, padding="same", name="stem")(pixels)
    if first_sign:
        x = ApproxSign(name="sign_1")(x)
    if first_pad == 1.0:
        x = binary_conv(x, 32, 3, 1, name="first")
    else:
        x = tf.keras.layers.ZeroPadding2D(1)(x)
        x = lq.layers.QuantConv2D(32, 3, kernel_quantizer=ScaledSign(), name="first")(x)
    x = ApproxSign(name="sign_2")(batch_norm(x, "long_name_of_the_first_batch_normalisation"))
    x = batch_norm(binary_conv(x, 32, 3, 1, name="second"), "bn_2")
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(pixels, {"logits": tf.keras.layers.Dense(4, name="logits")(x)})


def test_a_sound_file_passes_both_checks(flatbuffer):
    counts = check_binary(flatbuffer, small_student())
    assert counts["LceBconv2d"] == 5
    expected = logits_of(small_student())
    agreement = check_agreement(expected, run(flatbuffer, photographs()), "file")
    assert agreement.images == len(photographs())
    assert agreement.argmax_agreement == 1.0
    assert agreement.untouched_difference <= agreement.median_difference < 1e-5


@pytest.mark.parametrize("options", [{"first_sign": False}, {"first_pad": 0.0}])
def test_a_layer_that_became_float_is_named(options):
    student = randomize(_chain(**options))
    converted = convert(student)
    with pytest.raises(ExportError, match=r"1 binary .* has 2; not binary: first\.") as refusal:
        check_binary(converted, student, "x.tflite")
    assert "x.tflite" in str(refusal.value)


def test_a_dead_channel_stays_binary():
    student = randomize(_chain())
    kernel = student.get_layer("first").kernel
    kernel.assign(kernel.numpy() * (np.arange(32) != 5))
    assert check_binary(convert(student), student)["LceBconv2d"] == 2


def test_float_use_of_a_sign_and_layers_the_engine_lacks_are_refused(flatbuffer):
    pixels = tf.keras.Input((8, 8, 3), name="pixels")
    sign = ApproxSign()(tf.keras.layers.Conv2D(32, 3, name="stem")(pixels))
    both = binary_conv(sign, 32, 3, 1, name="binary") * tf.keras.layers.ReLU()(sign)
    logits = tf.keras.layers.Dense(4)(tf.keras.layers.GlobalAveragePooling2D()(both))
    student = randomize(tf.keras.Model(pixels, {"logits": logits}))
    with pytest.raises(ExportError, match="1 LceDequantize"):
        check_binary(convert(student), student)

    features = small_student().output["features"]
    dense = lq.layers.QuantDense(4, kernel_quantizer="ste_sign", name="dense_bits")(features)
    student = tf.keras.Model(small_student().input, {"logits": dense})
    with pytest.raises(ExportError, match="no binary form of dense_bits"):
        check_binary(flatbuffer, student)


def test_a_float_layer_the_student_lacks_is_refused(flatbuffer):
    student = small_student()
    without_head = tf.keras.Model(student.input, {"logits": student.output["features"]})
    with pytest.raises(ExportError, match=r"1 FULLY_CONNECTED .* has 0"):
        check_binary(flatbuffer, without_head)


@pytest.mark.parametrize(
    ("layer", "attribute", "change"),
    [
        ("block01_spatial_conv", "kernel", np.negative),
        ("block02_point_left_conv", "kernel", lambda kernel: kernel * _flip_one(kernel.shape)),
        ("block02_point_right_bn", "moving_mean", lambda mean: mean + 0.5 * _first(mean.shape)),
        ("block01_point_bn", "moving_variance", lambda variance: variance * 1.1),
        ("logits", "bias", lambda bias: bias + 0.05 * _first(bias.shape)),
    ],
)
def test_a_file_with_other_weights_is_refused(layer, attribute, change):
    # The file's parity with Keras is tested above; one conversion for each would take minutes.
    wrong = logits_of(_changed_student(layer, attribute, change))
    with pytest.raises(ExportError, match="does not compute what the student computes"):
        check_agreement(logits_of(small_student()), wrong, "file")


def test_a_converted_file_with_other_weights_is_refused():
    wrong = convert(_changed_student("block01_spatial_conv", "kernel", np.negative))
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


def _clear_logits(images: int) -> np.ndarray:
    outputs = np.random.default_rng(0).uniform(-0.5, 0.5, (images, CLASSES))
    outputs[np.arange(images), np.arange(images) % CLASSES] = 1.0
    return outputs


def test_sign_flips_on_some_images_are_forgiven_and_reported():
    expected = _clear_logits(100)
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
    expected = _clear_logits(100)
    actual = expected.copy()
    actual[0] = np.roll(actual[0], 1)
    assert check_agreement(expected, actual, "file").argmax_agreement == 0.99
    actual[1] = np.roll(actual[1], 1)
    with pytest.raises(ExportError, match="2 images have another class"):
        check_agreement(expected, actual, "file")


def test_a_tie_that_rounding_decides_does_not_count():
    expected = _clear_logits(10)
    expected[:5, 3] = 1.0
    expected[:5, 4] = 1.0 - 1e-6
    actual = expected.copy()
    actual[:5, 4] += 2e-6
    agreement = check_agreement(expected, actual, "file")
    assert agreement.decided == 5
    assert agreement.argmax_agreement == 1.0


def test_saved_model_runs_where_neither_larq_nor_this_package_is_imported(tmp_path):
    names = [str(number) for number in range(CLASSES)]
    folder = export_saved_model(small_student(), tmp_path, names, image_side=SIZE)
    logits = logits_of(small_student())
    agreement = check_saved_model(folder, photographs(), logits, photographs())
    assert agreement.images == len(photographs())
    assert agreement.argmax_agreement == 1.0
    assert agreement.untouched_difference < 1e-5

    with pytest.raises(ExportError, match="other scores than as pixels"):
        check_saved_model(folder, photographs(), logits, photographs()[::-1])
    shutil.rmtree(folder / "variables")
    with pytest.raises(ExportError, match="does not run in stock TensorFlow"):
        check_saved_model(folder, photographs(), logits, photographs())


def test_a_saved_model_of_other_weights_is_refused_where_scores_are_all_but_one_hot(tmp_path):
    other = _changed_student("block01_spatial_conv", "kernel", np.negative)
    for student in (other, sure := _changed_student("logits", "bias", lambda bias: bias)):
        student.get_layer("logits").bias.assign_add(40.0 * _first((CLASSES,)))
    logits = logits_of(sure)
    assert (logits[:, 0] - np.partition(logits, -2)[:, -2] > 20).all()
    names = [str(number) for number in range(CLASSES)]
    folder = export_saved_model(other, tmp_path, names, image_side=SIZE)
    with pytest.raises(ExportError, match="does not compute"):
        check_saved_model(folder, photographs(), logits, photographs())


def test_best_classes_of_files_are_those_of_their_pixels_by_name(tmp_path):
    (tmp_path / "assets").mkdir()
    (tmp_path / "assets" / "labels.txt").write_text("cat\ndog\nelk\n")
    outputs = {
        "all_scores": np.array([[0.1, 0.7, 0.2], [0.5, 0.2, 0.3]]),
        "class_names": np.array([["dog", "elk"], ["cat", "elk"]], "S"),
        "class_ids": np.array([[1, 2], [0, 2]]),
        "scores": np.array([[0.7, 0.2], [0.5, 0.3]]),
    }
    verify._refuse_other_best(tmp_path, outputs)
    for name, wrong, message in [
        ("class_names", np.array([["dog", "elk"], ["cat", "dog"]], "S"), "class names"),
        ("class_ids", np.array([[1, 2], [0, 1]]), "of 2 images given as files, 1 get other"),
        ("scores", np.array([[0.7, 0.1], [0.5, 0.1]]), "2 get other scores"),
        ("scores", np.array([[0.7, np.nan], [0.5, 0.3]]), "1 get other scores"),
    ]:
        with pytest.raises(ExportError, match=message):
            verify._refuse_other_best(tmp_path, {**outputs, name: wrong})


def test_export_errors_are_the_users_to_fix():
    assert issubclass(ExportError, UserError)


def _first(shape: tuple[int, ...]) -> np.ndarray:
    return (np.arange(shape[0]) == 0).astype(np.float32)


def _flip_one(shape: tuple[int, ...]) -> np.ndarray:
    signs = np.ones(shape, np.float32)
    signs[0, 0, 0, 0] = -1
    return signs

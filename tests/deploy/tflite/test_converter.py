from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.checks.errors import ExportError
from candle_tf.deploy.checks.operators import check_stock
from candle_tf.deploy.tflite.converter import convert, convert_float, run, run_litert
from candle_tf.deploy.tflite.flatbuffer import operators
from candle_tf.deploy.tflite.interpreters import KERNELS, open_compute_engine, open_litert
from candle_tf.errors import UserError
from candle_tf.students.compute_policy import ComputePolicy, set_compute_policy
from candle_tf.students.fused_forward import training_forward
from candle_tf.students.layers.blocks import binary_layers
from tests.deploy.test_binarize import CLASSES, logits_of, photographs, small_student
from tests.native.availability import needs_native


@pytest.fixture(scope="module")
def flatbuffer() -> bytes:
    return convert(small_student())


@pytest.fixture(scope="module")
def reference() -> bytes:
    return convert_float(small_student())


@pytest.mark.parametrize("kernel", KERNELS)
def test_logits_are_the_students(flatbuffer, kernel):
    expected = logits_of(small_student())
    actual = run(flatbuffer, photographs(), num_threads=2, kernel=kernel)
    assert actual.shape == (len(photographs()), CLASSES)
    assert np.median(np.abs(actual - expected).max(axis=1)) < 1e-5 * np.abs(expected).max()


def test_both_files_take_images_as_they_are_decoded(flatbuffer, reference):
    for interpreter in (open_compute_engine(flatbuffer), open_litert(reference)):
        assert interpreter.shape == (1, 32, 32, 3)
        assert interpreter.dtype == np.uint8
        assert interpreter(photographs()[:1]).shape == (1, CLASSES)


def test_an_output_is_not_overwritten_by_the_next(flatbuffer, reference):
    for interpreter in (open_compute_engine(flatbuffer), open_litert(reference)):
        first = interpreter(photographs()[:1])
        before = first.copy()
        second = interpreter(photographs()[1:2])
        assert not np.array_equal(first, second)
        np.testing.assert_array_equal(first, before)


def test_threads_may_share_an_interpreter(flatbuffer, reference):
    images = photographs()[:8]
    for interpreter in (open_compute_engine(flatbuffer), open_litert(reference)):
        alone = [interpreter(images[number : number + 1]) for number in range(8)]

        def repeat(number: int, interpreter=interpreter) -> list[np.ndarray]:
            return [interpreter(images[number : number + 1]) for _ in range(50)]

        with ThreadPoolExecutor(8) as threads:
            for expected, found in zip(alone, threads.map(repeat, range(8)), strict=True):
                np.testing.assert_array_equal(np.concatenate(found), expected.repeat(50, axis=0))


@pytest.mark.parametrize("num_threads", [1, 2])
def test_the_float_reference_gives_the_students_logits_in_stock_litert(reference, num_threads):
    expected = logits_of(small_student())
    actual = run_litert(reference, photographs(), num_threads=num_threads)
    assert np.median(np.abs(actual - expected).max(axis=1)) < 1e-5 * np.abs(expected).max()


def test_the_float_reference_has_tflites_own_operators_and_a_convolution_for_each_layer(
    flatbuffer, reference
):
    counts = check_stock(reference)
    assert counts["CONV_2D"] == 1 + len(binary_layers(small_student()))
    assert counts["CAST"] == Counter(step.name for step in operators(flatbuffer))["CAST"] == 1
    binary = sum(int(np.prod(layer.kernel.shape)) for layer in binary_layers(small_student()))
    assert len(reference) - len(flatbuffer) > 3 * binary


def test_a_file_for_the_compute_engine_is_no_stock_file(flatbuffer):
    with pytest.raises(ExportError, match=r"x\.tflite has the operators LceBconv2d, LceQuantize"):
        check_stock(flatbuffer, "x.tflite")
    with pytest.raises(UserError, match=r"x\.tflite needs the Larq Compute Engine"):
        run_litert(flatbuffer, photographs(), source="x.tflite")


@pytest.mark.parametrize("value", [0.5, -1.0, 256.0])
def test_pixels_that_are_no_bytes_are_refused(flatbuffer, value):
    pixels = photographs()[:2].astype(np.float32)
    pixels[1, 3, 3, 0] = value
    with pytest.raises(UserError, match=r"whole numbers in 0\.\.255"):
        run(flatbuffer, pixels)


def test_float_and_integer_pixels_are_the_same(flatbuffer):
    pixels = photographs()[:3]
    as_float = run(flatbuffer, pixels.astype(np.float64))
    np.testing.assert_array_equal(run(flatbuffer, pixels), as_float)


def test_images_of_another_shape_and_unknown_kernels_are_refused(flatbuffer):
    with pytest.raises(UserError, match=r"\[N, 32, 32, 3\].*\[2, 16, 16, 3\]"):
        run(flatbuffer, np.zeros((2, 16, 16, 3), np.uint8))
    with pytest.raises(UserError, match="at least one"):
        run(flatbuffer, np.zeros((0, 32, 32, 3), np.uint8))
    with pytest.raises(UserError, match=r"'fastest'.*indirect"):
        run(flatbuffer, photographs(), kernel="fastest")


def test_operators_and_their_weights(flatbuffer):
    student = small_student()
    steps = operators(flatbuffer)
    counts = Counter(step.name for step in steps)
    assert counts["LceBconv2d"] == len(binary_layers(student)) == 5
    assert counts["CONV_2D"] == counts["FULLY_CONNECTED"] == 1

    head = next(step for step in steps if step.name == "FULLY_CONNECTED")
    kernel = student.get_layer("logits").kernel.numpy()
    np.testing.assert_array_equal(head.weights.values, kernel.T)
    assert head.weights.size == kernel.nbytes
    # One bit per weight: 32 input channels fill one 32-bit word.
    packed = [step.weights for step in steps if step.name == "LceBconv2d"]
    assert {weights.shape for weights in packed} == {(16, 3, 3, 1), (16, 1, 1, 1)}
    assert all(weights.size == 4 * np.prod(weights.shape) for weights in packed)
    stem = next(step for step in steps if step.name == "CONV_2D")
    assert "stem" in stem.outputs[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda data: data[:0], "x.tflite is not a TFLite file"),
        (lambda data: data.replace(b"TFL3", b"TFL9", 1), "x.tflite is not a TFLite file"),
        (lambda data: data[: len(data) // 2], "x.tflite is damaged"),
        (lambda data: data[:-3000] + b"\xff" * 3000, "x.tflite is damaged"),
    ],
)
def test_damaged_bytes_are_refused_with_the_files_name(flatbuffer, damage, message):
    with pytest.raises(UserError, match=message):
        operators(damage(flatbuffer), "x.tflite")
    with pytest.raises(UserError, match=message):
        run(damage(flatbuffer), photographs(), source="x.tflite")
    with pytest.raises(UserError, match=message):
        run_litert(damage(flatbuffer), photographs(), source="x.tflite")


@needs_native
def test_a_file_is_the_same_after_native_training_as_of_a_plain_student():
    native, plain = small_student(), small_student()
    set_compute_policy(native, ComputePolicy(native=True))
    images, optimizer = tf.constant(photographs(), tf.float32), tf.keras.optimizers.SGD(0.1)
    before = native.get_weights()
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(tf.square(training_forward(native)(images)["logits"]))
    gradients = tape.gradient(loss, native.trainable_variables)
    optimizer.apply_gradients(zip(gradients, native.trainable_variables, strict=True))
    assert not all(map(np.array_equal, before, native.get_weights()))
    plain.set_weights(native.get_weights())
    assert convert(native) == convert(plain)

"""The table of students, on one small student."""

import json
from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.tflite.converter import convert_float, run_litert
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.layers.blocks import binary_layers
from tests.command import start
from tests.deploy.test_binarize import logits_of, photographs, small_student
from tools.student_table import random_images, randomize, reestimate_batch_norms, table

OPTIONS = {"image_size": 32, "classes": 10, "width": 0.25, "stem_stride": 1}


@pytest.fixture(scope="module")
def printed_and_written(tmp_path_factory) -> tuple[str, dict[str, Any]]:
    path = tmp_path_factory.mktemp("table") / "students.json"
    options = [f"--{name}={value}" for name, value in OPTIONS.items()]
    done = start(
        "tools.student_table", "--students=reactnet_a", "--images=8", *options, f"--json={path}"
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, json.loads(path.read_text())


def small() -> Any:
    return build_student("reactnet_a", (32, 32, 3), 10, width=0.25, stem_stride=1)


def test_the_command_writes_what_it_prints(printed_and_written):
    printed, written = printed_and_written
    assert {name: written[name] for name in OPTIONS} == OPTIONS
    (row,) = written["rows"]
    assert printed.strip() == table([row])
    assert printed.startswith("student")
    assert "31 of 31" in printed
    assert f"{row['ratio']:.1f}" in printed


def test_a_students_figures(printed_and_written):
    (row,) = printed_and_written[1]["rows"]
    assert row["binary_convolutions"] == row["binary_layers"] == 31
    assert row["predicted_bytes"] == pytest.approx(row["bytes"], rel=0.03)
    # The float32 reference model has every binary weight in 32 bits, and at this width much else.
    assert row["float_bytes"] > 4 * row["binary_parameters"]
    assert row["ratio"] == pytest.approx(row["float_bytes"] / row["bytes"])
    assert row["ratio"] > 10
    assert 0 <= row["largest_difference"] < 0.5
    assert row["argmax_agreement"] >= 7 / 8


def test_the_float_reference_computes_the_same_with_more_bytes():
    student = small_student()
    reference = convert_float(student)
    binary = sum(int(np.prod(layer.kernel.shape)) for layer in binary_layers(student))
    assert len(reference) > 4 * binary
    actual = run_litert(reference, photographs()[:1])
    expected = logits_of(student)[:1]
    np.testing.assert_allclose(actual, expected, atol=0.05 * np.abs(expected).max())


def test_statistics_shifts_and_slopes_are_random_and_the_rest_is_not():
    before, student = small(), small()
    student.set_weights(before.get_weights())
    randomize(student)
    for old, new in zip(before.weights, student.weights, strict=True):
        moved = not np.array_equal(old.numpy(), new.numpy())
        assert moved == ("kernel" not in new.name), new.name
        if "variance" in new.name:
            assert (new.numpy() > 0).all()


def test_reestimated_statistics_are_around_the_images_own():
    student, pixels = small(), random_images(16, 32)
    randomize(student)
    reestimate_batch_norms(student, pixels)
    stem = student.get_layer("stem_bn")
    assert stem.momentum == small().get_layer("stem_bn").momentum > 0
    inputs = tf.keras.Model(student.input, stem.input)(pixels).numpy().astype(np.float64)
    deviation = inputs.std(axis=(0, 1, 2))
    apart = (stem.moving_mean.numpy() - inputs.mean(axis=(0, 1, 2))) / deviation
    assert 0.01 < np.abs(apart).max() < 2
    ratios = stem.moving_variance.numpy() / deviation**2
    assert (ratios > 0.65).all()
    assert (ratios < 1.45).all()
    assert np.ptp(ratios) > 0.05


def test_images_are_normalised_and_differ():
    images = random_images(6, 32)
    assert images.shape == (6, 32, 32, 3)
    assert images.dtype == np.float32
    assert images.min() >= 0
    assert images.max() <= 255
    np.testing.assert_allclose(images.mean(axis=(1, 2, 3)), 127.5, atol=5)
    np.testing.assert_allclose(images.std(axis=(1, 2, 3)), 64, atol=8)
    assert np.abs(images[0] - images[1]).mean() > 20


@pytest.mark.parametrize(
    ("argument", "said"),
    [
        ("--students=resnet", "reactnet_a"),
        ("--students=", "reactnet_a"),
        ("--classes=0", "at least 1"),
        ("--images=0", "at least 1"),
        ("--width=9", "at most 4"),
        ("--image_size=1", "at least 8"),
    ],
)
def test_bad_values_are_refused_with_the_flags_name(argument, said):
    done = start("tools.student_table", argument)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"error: {argument}")
    assert said in done.stderr

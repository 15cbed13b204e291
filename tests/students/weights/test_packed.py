"""Packed weights: the function survives, the size is small, damage is refused."""

import functools
import json

import numpy as np
import pytest
import safetensors.numpy
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.methods.annealing import find_annealed_quantizers, set_exact_signs
from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.students.layers.blocks import binary_layers
from candle_tf.students.weights.packed import describe, pack, unpack
from candle_tf.students.weights.spec import StudentSpec

SPEC = StudentSpec("reactnet_a", 0.25)


@functools.cache
def network(spec, classes, number):
    """A student, one of several; building one takes longer than what is tested of it."""
    del number
    return spec.build(32, classes)


def random_student(spec=SPEC, classes=3, seed=0):
    """A student, one for each seed, with all its weights drawn."""
    return draw_weights(network(spec, classes, seed), seed)


def draw_weights(student, seed):
    """The student with every weight its own random number, variances positive."""
    rng = np.random.default_rng(seed)
    for variable in student.weights:
        if "temperature" in variable.name:
            continue
        value = 0.3 * rng.normal(size=variable.shape)
        if "variance" in variable.name or "gamma" in variable.name:
            value = 0.5 + np.abs(value)
        variable.assign(value)
    return student


@pytest.mark.parametrize("name", STUDENTS)
def test_every_student_computes_the_same_after_a_round_trip(name):
    spec = StudentSpec(name, 0.25)
    student = draw_weights(spec.build(32, 3), 0)
    set_exact_signs(find_annealed_quantizers(student))
    data = pack(student, spec, ["a", "b", "c"])
    before = [variable.numpy() for variable in student.weights]
    unpack(data, draw_weights(student, 1), "test")

    binary = {layer.kernel.ref() for layer in binary_layers(student)}
    for ours, variable in zip(before, student.weights, strict=True):
        theirs = variable.numpy()
        if variable.ref() in binary:
            np.testing.assert_array_equal(np.sign(theirs), np.sign(ours))
            magnitude = np.abs(ours).mean(axis=(0, 1, 2))
            np.testing.assert_allclose(np.abs(theirs).mean(axis=(0, 1, 2)), magnitude, rtol=1e-3)
        else:
            # Beyond the kernels, every weight is rounded to float16 and nothing else.
            np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-7)


def test_the_rounding_changes_few_classes():
    student = random_student(classes=10)
    again = random_student(classes=10, seed=1)
    unpack(pack(student, SPEC, list("abcdefghij")), again, "test")
    pixels = np.random.default_rng(1).uniform(0, 255, (64, 32, 32, 3)).astype(np.float32)
    ours, theirs = (each(pixels)["logits"].numpy() for each in (student, again))
    assert (ours.argmax(axis=1) == theirs.argmax(axis=1)).mean() > 0.9


def test_packing_again_gives_the_very_same_bytes():
    data = pack(random_student(), SPEC)
    again = random_student(seed=1)
    unpack(data, again, "test")
    assert pack(again, SPEC) == data


def test_a_binary_weight_takes_one_bit():
    student = random_student()
    binary = sum(layer.kernel.shape.num_elements() for layer in binary_layers(student))
    others = sum(w.shape.num_elements() for w in student.weights) - binary
    channels = sum(layer.kernel.shape[-1] for layer in binary_layers(student))
    arrays = safetensors.numpy.load(pack(student, SPEC, ["a", "b", "c"]))
    statistics = sum(a.size for name, a in arrays.items() if "moving_" in name)
    packed = binary // 8 + 2 * (others + channels + statistics)
    assert sum(a.nbytes for a in arrays.values()) == packed


def test_without_class_names_the_classifier_is_left_alone():
    data = pack(random_student(classes=3), SPEC)
    student = random_student(classes=7, seed=5)
    before = student.get_layer("logits").get_weights()
    unpack(data, student, "test")
    for ours, theirs in zip(before, student.get_layer("logits").get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_file_says_what_it_is_of():
    data = pack(random_student(), SPEC, ["cat", "dog", "owl"], {"epochs": "8"})
    assert describe(data, "test") == (SPEC, ["cat", "dog", "owl"], {"epochs": "8"})
    assert describe(pack(random_student(), SPEC), "test")[1] is None


def test_truncated_and_foreign_files_are_refused():
    data = pack(random_student(), SPEC)
    for length in (0, 7, 8, 100, len(data) // 2, len(data) - 1):
        with pytest.raises(UserError, match=r"test.*damaged"):
            describe(data[:length], "test")
    with pytest.raises(UserError, match="damaged"):
        describe(b"PK\x03\x04" + bytes(1000), "test")
    foreign = safetensors.numpy.save({"a": np.zeros(3, np.float32)}, {"format": "pt"})
    with pytest.raises(UserError, match="KeyError: 'candle_tf'"):
        describe(foreign, "test")


def file_with(data, **arrays):
    """A file with other arrays; None takes one out."""
    kept = {**safetensors.numpy.load(data), **arrays}
    return safetensors.numpy.save({k: v for k, v in kept.items() if v is not None})


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"stem_bn/gamma": None}, "misses stem_bn/gamma"),
        ({"stem_bn/gamma": np.zeros(9, np.float16)}, "stem_bn/gamma is float16 .9."),
        ({"stem_bn/gamma": np.zeros(8, np.float32)}, "stem_bn/gamma is float32"),
        ({"stem_bn/gamma": np.full(8, np.nan, np.float16)}, "stem_bn/gamma.*finite"),
        ({"other": np.zeros(1, np.float16)}, "unknown array other"),
        ({"block01_spatial_conv/kernel:signs": np.zeros(3, np.uint8)}, "spatial_conv/kernel:signs"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_and_nothing_is_changed(arrays, message):
    data = file_with(pack(random_student(), SPEC), **arrays)
    student = random_student(seed=1)
    before = student.get_weights()
    with pytest.raises(UserError, match=message):
        unpack(data, student, "test")
    for ours, theirs in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_float16_cannot_hold_is_refused():
    student = random_student()
    student.get_layer("stem_bn").gamma.assign(tf.fill([8], 1e6))
    with pytest.raises(UserError, match=r"stem_bn/gamma is as large as 1e\+06"):
        pack(student, SPEC)


def test_statistics_that_float16_cannot_hold_are_kept():
    student = random_student()
    norm = student.get_layer("stem_bn")
    norm.moving_variance.assign(tf.fill([8], 7e4))
    norm.moving_mean.assign(tf.fill([8], -1e5))
    data = pack(student, SPEC)
    for variable in (norm.moving_variance, norm.moving_mean):
        variable.assign(tf.ones([8]))
    unpack(data, student, "test")
    assert norm.moving_variance.numpy().tolist() == [7e4] * 8
    assert norm.moving_mean.numpy().tolist() == [-1e5] * 8


def test_files_of_the_first_format_are_read():
    """Its moving statistics are float16."""
    student = random_student()
    data, before = pack(student, SPEC), student.get_layer("stem_bn").get_weights()
    size = int.from_bytes(data[:8], "little")
    text = json.loads(data[8 : 8 + size])["__metadata__"]["candle_tf"]
    arrays = {
        name: array.astype(np.float16) if "moving_" in name else array
        for name, array in safetensors.numpy.load(data).items()
    }
    first = safetensors.numpy.save(arrays, {"candle_tf": text.replace("weights 2", "weights 1")})
    assert describe(first, "test")[0] == SPEC
    student.get_layer("stem_bn").set_weights([np.ones_like(value) for value in before])
    unpack(first, student, "test")
    for ours, theirs in zip(before, student.get_layer("stem_bn").get_weights(), strict=True):
        np.testing.assert_allclose(theirs, ours, rtol=1e-3, atol=1e-7)


def test_a_vanished_channel_keeps_its_signs():
    student = random_student()
    kernel = binary_layers(student)[0].kernel
    kernel.assign(1e-9 * kernel)
    again = random_student(seed=1)
    unpack(pack(student, SPEC), again, "test")
    theirs = binary_layers(again)[0].kernel.numpy()
    np.testing.assert_array_equal(np.sign(theirs), np.sign(kernel.numpy()))

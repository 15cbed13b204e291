"""--student_weights: what is copied, and what is refused with one sentence and nothing changed."""

import hashlib

import numpy as np
import pytest

from candle_tf.errors import UserError
from candle_tf.students.weights.loading import (
    StartingWeights,
    load_weights_file,
    shipped_weights,
    start_from,
)
from candle_tf.students.weights.packed import pack
from candle_tf.students.weights.spec import StudentSpec
from tests.students.weights.test_packed import SPEC, random_student
from tests.students.weights.test_pytorch import random_reactnet_state

SIZE = 32
NAMES = ["cat", "dog", "owl"]


@pytest.fixture(scope="module")
def student():
    return random_student(SPEC, seed=3)


@pytest.fixture
def packed_file(tmp_path, student):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(pack(student, SPEC, NAMES))
    return path


def agree(ours, theirs, rtol=1e-3):
    return all(
        np.allclose(a, b, rtol=rtol, atol=1e-6)
        for a, b in zip(ours.get_weights(), theirs.get_weights(), strict=True)
    )


@pytest.mark.parametrize(("names", "same"), [(NAMES, True), (NAMES[::-1], False)])
def test_the_classifier_is_copied_only_where_class_names_agree(packed_file, student, names, same):
    target = random_student(SPEC, seed=4)
    assert start_from(load_weights_file(packed_file, SPEC, SIZE), target, names) is same
    assert agree(target.get_layer("stem_bn"), student.get_layer("stem_bn"))
    assert agree(target.get_layer("logits"), student.get_layer("logits")) is same


def test_another_number_of_classes_and_another_image_size_are_no_obstacle(packed_file, student):
    target = SPEC.build(48, 7)
    assert not start_from(load_weights_file(packed_file, SPEC, 48), target, list("abcdefg"))
    assert agree(target.get_layer("stem_conv"), student.get_layer("stem_conv"))


@pytest.mark.parametrize("name", ["student.h5", "student.weights.h5"])
def test_a_keras_file_of_any_number_of_classes_is_read(tmp_path, student, name):
    path = tmp_path / name
    student.save_weights(str(path))
    start = load_weights_file(path, SPEC, SIZE)
    assert agree(start.network, student, rtol=0)
    assert start.class_names is None


@pytest.mark.parametrize("name", ["student.h5", "student.weights.h5"])
def test_gates_are_not_taken_for_the_classifier(tmp_path, name):
    spec = StudentSpec("real_to_binary", 0.125)
    student = random_student(spec, seed=5)
    student.save_weights(str(tmp_path / name))
    assert agree(load_weights_file(tmp_path / name, spec, SIZE).network, student, rtol=0)


def test_a_sha256_is_compared(packed_file):
    right = hashlib.sha256(packed_file.read_bytes()).hexdigest()
    load_weights_file(packed_file, SPEC, SIZE, right)
    with pytest.raises(UserError, match=r"0000.* was expected"):
        load_weights_file(packed_file, SPEC, SIZE, "0" * 64)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (StudentSpec("reactnet_a", 0.5), "of reactnet_a at width 0.25, and the student is"),
        (StudentSpec("bnext_t", 0.25), "the student is bnext_t at width 0.25"),
    ],
)
def test_another_student_or_width_is_refused(packed_file, spec, message):
    with pytest.raises(UserError, match=message):
        load_weights_file(packed_file, spec, SIZE)


def test_a_keras_file_of_another_width_is_refused(tmp_path, student):
    path = tmp_path / "student.h5"
    student.save_weights(str(path))
    with pytest.raises(UserError, match=r"does not hold the weights of reactnet_a at width 0\.5"):
        load_weights_file(path, StudentSpec("reactnet_a", 0.5), SIZE)


def test_truncated_files_of_every_kind_are_refused(tmp_path, packed_file, student):
    h5 = tmp_path / "student.h5"
    student.save_weights(str(h5))
    for path in (packed_file, h5):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=path.name):
            load_weights_file(path, SPEC, SIZE)
    torch = tmp_path / "model.pth.tar"
    torch.write_bytes(b"PK\x03\x04 and no more")
    with pytest.raises(UserError, match=r"model\.pth\.tar.*damaged"):
        load_weights_file(torch, StudentSpec("reactnet_a", 1.0), SIZE)


def test_missing_files_and_unknown_kinds_are_refused(tmp_path):
    with pytest.raises(UserError, match="No such file"):
        load_weights_file(tmp_path / "none.safetensors", SPEC, SIZE)
    path = tmp_path / "weights.bin"
    path.write_bytes(b"weights")
    with pytest.raises(UserError, match="files named"):
        load_weights_file(path, SPEC, SIZE)


def test_pytorch_files_are_of_width_1(tmp_path):
    path = tmp_path / "model.pth"
    path.write_bytes(b"PK")
    with pytest.raises(UserError, match=r"--width=0\.25"):
        load_weights_file(path, SPEC, SIZE)


def test_weights_that_are_not_finite_are_refused_and_nothing_is_changed():
    broken = random_student(SPEC, seed=6)
    broken.get_layer("block05_spatial_conv").kernel.assign(
        np.full(broken.get_layer("block05_spatial_conv").kernel.shape, np.nan)
    )
    target = random_student(SPEC, seed=7)
    before = target.get_weights()
    with pytest.raises(UserError, match=r"block05_spatial_conv/kernel.*finite"):
        start_from(StartingWeights(broken, None, "test"), target, NAMES)
    for ours, theirs in zip(before, target.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_what_does_not_come_with_the_package_is_refused():
    with pytest.raises(UserError, match=r"no weights of bnext_s at width 3.*candle_tf\.pretrain"):
        shipped_weights(StudentSpec("bnext_s", 3.0))


def test_state_dicts_of_made_weights_have_the_students_size():
    total = sum(v.size for k, v in random_reactnet_state().items() if not k.endswith("tracked"))
    assert total == random_student(SPEC, classes=7).count_params()

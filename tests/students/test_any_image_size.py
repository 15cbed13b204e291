"""Students on images of other sizes than those that they were built for."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.any_image_size import any_image_size, explain_fixed_size
from candle_tf.students.compute_policy import PLAIN, ComputePolicy
from tests.native.availability import needs_native
from tests.students.native_step import (
    CLASSES,
    NATIVE,
    assert_same_step,
    narrow_student,
    step_of,
)

BUILT = 32
# Of each family with a step of seconds, with maps of odd sides (24: 12, 6, 3, 2; 40: 20, 10, 5, 3).
CASES = [
    ("reactnet_a", 24), ("reactnet_a", 40), ("quicknet_small", 40), ("birealnet18", 24),
    ("real_to_binary", 24),
]  # fmt: skip


def _step(student: tf.keras.Model, policy: ComputePolicy, weights, images: tf.Tensor):
    upstream = np.random.default_rng(1).normal(size=(len(images), CLASSES)).astype(np.float32)
    with any_image_size(student):
        return step_of(student, policy, weights, images, upstream)


def _images(side: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(2).uniform(0, 255, (6, side, side, 3)), tf.float32)


@needs_native
@pytest.mark.parametrize(("name", "side"), CASES)
def test_the_native_step_is_the_plain_one_at_other_sizes(name, side):
    student = narrow_student(name, BUILT)
    weights, images = student.get_weights(), _images(side)
    assert explain_fixed_size(student, side) == ""
    wanted = _step(student, PLAIN, weights, images)
    actual = _step(student, NATIVE, weights, images)
    assert_same_step(student, actual, wanted)


def test_a_student_is_the_one_that_was_built_for_the_size():
    student, built = narrow_student("reactnet_a", BUILT), narrow_student("reactnet_a", 24)
    built.set_weights(student.get_weights())
    images = _images(24)
    with any_image_size(student):
        logits = student(images, training=False)["logits"]
    np.testing.assert_array_equal(logits, built(images, training=False)["logits"])
    with pytest.raises(ValueError, match="incompatible"):
        student(images)


def test_shapes_of_a_student_with_gates_fit_any_size():
    assert explain_fixed_size(narrow_student("bnext_t", BUILT), 24) == ""


def test_a_student_of_a_fixed_size_is_told():
    pixels = tf.keras.Input((16, 16, 3))
    features = tf.keras.layers.Flatten()(tf.keras.layers.AveragePooling2D(4)(pixels))
    logits = tf.keras.layers.Dense(CLASSES)(features)
    student = tf.keras.Model(pixels, {"features": features, "logits": logits})
    assert explain_fixed_size(student, 16) == ""
    # The dense layer has weights for 16 means of three colours, and gets 36.
    assert "expected axis -1 of input shape to have value 48" in explain_fixed_size(student, 24)

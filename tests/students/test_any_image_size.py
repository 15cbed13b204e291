"""Students on images of other sizes than those that they were built for."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.any_image_size import any_image_size, explain_fixed_size
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.compute_policy import PLAIN, ComputePolicy, set_compute_policy
from candle_tf.students.fused_forward import training_forward
from tests.native.availability import needs_native

NATIVE = ComputePolicy(native=True)
BUILT, CLASSES = 32, 5
# Of each family with a step of seconds, with maps of odd sides (24: 12, 6, 3, 2; 40: 20, 10, 5, 3).
CASES = [
    ("reactnet_a", 24), ("reactnet_a", 40), ("quicknet_small", 40), ("birealnet18", 24),
    ("real_to_binary", 24),
]  # fmt: skip


def _student(name: str, side: int = BUILT) -> tf.keras.Model:
    """A narrow one whose shifts, slopes and batch norms are not at their start."""
    tf.keras.utils.set_random_seed(0)
    student = build_student(name, (side, side, 3), CLASSES, width=0.25)
    rng = np.random.default_rng(0)
    for variable in student.trainable_variables:
        if variable.shape[:-1].num_elements() == 1 or len(variable.shape) == 1:
            variable.assign(variable + rng.normal(0, 0.1, variable.shape).astype(np.float32))
    return student


def _step(student: tf.keras.Model, policy: ComputePolicy, weights, images: tf.Tensor):
    """Logits, gradients by variable, and what the batch norms' statistics become."""
    set_compute_policy(student, policy)
    student.set_weights(weights)
    upstream = np.random.default_rng(1).normal(size=(len(images), CLASSES)).astype(np.float32)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            logits = training_forward(student)(images)["logits"]
            loss = tf.reduce_sum(logits * upstream)
        return logits, tape.gradient(loss, student.trainable_variables)

    with any_image_size(student):
        logits, gradients = step()
    moving = [variable.numpy() for variable in student.non_trainable_variables]
    return logits.numpy(), [gradient.numpy() for gradient in gradients], moving


def _images(side: int) -> tf.Tensor:
    return tf.constant(np.random.default_rng(2).uniform(0, 255, (6, side, side, 3)), tf.float32)


def _distance(actual: np.ndarray, wanted: np.ndarray, least: float) -> float:
    difference = np.linalg.norm(actual.astype(np.float64) - wanted)
    return float(difference / max(np.linalg.norm(wanted), least))


@needs_native
@pytest.mark.parametrize(("name", "side"), CASES)
def test_the_native_step_is_the_plain_one_at_other_sizes(name, side):
    student = _student(name)
    weights, images = student.get_weights(), _images(side)
    assert explain_fixed_size(student, side) == ""
    wanted = _step(student, PLAIN, weights, images)
    actual = _step(student, NATIVE, weights, images)
    np.testing.assert_allclose(
        actual[0], wanted[0], rtol=0, atol=1e-4 * float(np.abs(wanted[0]).max())
    )
    largest = max(float(np.linalg.norm(gradient)) for gradient in wanted[1])
    for variable, a, w in zip(student.trainable_variables, actual[1], wanted[1], strict=True):
        assert _distance(a, w, 1e-3 * largest) < 2e-3, variable.name
    for variable, a, w in zip(student.non_trainable_variables, actual[2], wanted[2], strict=True):
        assert _distance(a, w, 1e-2) < 1e-4, variable.name


def test_a_student_is_the_one_that_was_built_for_the_size():
    student, built = _student("reactnet_a"), _student("reactnet_a", 24)
    built.set_weights(student.get_weights())
    images = _images(24)
    with any_image_size(student):
        logits = student(images, training=False)["logits"]
    np.testing.assert_array_equal(logits, built(images, training=False)["logits"])
    with pytest.raises(ValueError, match="incompatible"):
        student(images)


def test_shapes_of_a_student_with_gates_fit_any_size():
    assert explain_fixed_size(_student("bnext_t"), 24) == ""


def test_a_student_of_a_fixed_size_is_told():
    pixels = tf.keras.Input((16, 16, 3))
    features = tf.keras.layers.Flatten()(tf.keras.layers.AveragePooling2D(4)(pixels))
    logits = tf.keras.layers.Dense(CLASSES)(features)
    student = tf.keras.Model(pixels, {"features": features, "logits": logits})
    assert explain_fixed_size(student, 16) == ""
    # The dense layer has weights for 16 means of three colours, and gets 36.
    assert "expected axis -1 of input shape to have value 48" in explain_fixed_size(student, 24)

"""A student's step by the native operators beside the plain one: set-up and comparison.

student = narrow_student("reactnet_a", 32)
actual = step_of(student, NATIVE, weights, images, upstream)
assert_same_step(student, actual, wanted)
"""

import numpy as np
import tensorflow as tf

from candle_tf.students.architectures.registry import build_student
from candle_tf.students.compute_policy import ComputePolicy, set_compute_policy
from candle_tf.students.fused_forward import training_forward

NATIVE = ComputePolicy(native=True)
CLASSES = 5


def narrow_student(name: str, side: int) -> tf.keras.Model:
    """One whose shifts, slopes and batch norms are not at their start."""
    tf.keras.utils.set_random_seed(0)
    student = build_student(name, (side, side, 3), CLASSES, width=0.25)
    rng = np.random.default_rng(0)
    for variable in student.trainable_variables:
        if variable.shape[:-1].num_elements() == 1 or len(variable.shape) == 1:
            variable.assign(variable + rng.normal(0, 0.1, variable.shape).astype(np.float32))
    return student


def step_of(
    student: tf.keras.Model,
    policy: ComputePolicy,
    weights: list[np.ndarray],
    images: tf.Tensor,
    upstream: tf.Tensor,
):
    """Logits, gradients by variable, and what the batch norms' statistics become."""
    set_compute_policy(student, policy)
    student.set_weights(weights)

    @tf.function(autograph=False)
    def step():
        with tf.GradientTape() as tape:
            logits = training_forward(student)(images)["logits"]
            loss = tf.reduce_sum(logits * upstream)
        return logits, tape.gradient(loss, student.trainable_variables)

    logits, gradients = step()
    moving = [variable.numpy() for variable in student.non_trainable_variables]
    return logits.numpy(), [gradient.numpy() for gradient in gradients], moving


def distance(actual: np.ndarray, wanted: np.ndarray, least: float) -> float:
    difference = np.linalg.norm(actual.astype(np.float64) - wanted)
    return float(difference / max(np.linalg.norm(wanted), least))


def assert_same_step(student: tf.keras.Model, actual, wanted) -> None:
    """Both are the same but for rounding."""
    np.testing.assert_allclose(
        actual[0], wanted[0], rtol=0, atol=1e-4 * float(np.abs(wanted[0]).max())
    )
    # In front of a further batch norm some gradients are 0 but for rounding.
    largest = max(float(np.linalg.norm(gradient)) for gradient in wanted[1])
    for variable, a, w in zip(student.trainable_variables, actual[1], wanted[1], strict=True):
        assert distance(a, w, 1e-3 * largest) < 2e-3, variable.name
    for variable, a, w in zip(student.non_trainable_variables, actual[2], wanted[2], strict=True):
        assert distance(a, w, 1e-2) < 1e-4, variable.name

"""What rounding costs: gradients of a student's binary kernels in bfloat16 against float32."""

import statistics
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import tensorflow as tf

from candle_tf.data.subset import Subset
from candle_tf.native import convolution
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.compute_policy import set_compute_policy
from tools.benchmarks.workload import Workload, batches_of


def gradient_errors(load: Workload, images: Subset) -> dict[str, dict[str, float]]:
    """Relative errors over the binary kernels, of one backward pass from the labels' cross-entropy.

    Args:
        load: the student, with new weights.
        images: one batch.

    Returns:
        For "lookup tables" and "Winograd", both in bfloat16: "median", "min" and "max" over the
        kernels of the root of the mean square of the error over that of the float32 gradient.

    Raises:
        UserError: where there are no native operators.
    """
    shape = (load.image_size, load.image_size, 3)
    student = build_student(load.student, shape, load.classes, width=load.width)
    exact = _gradients(student, replace(load, precision="float32", kernels="native"), images)
    rounded = replace(load, precision="bfloat16", kernels="native")
    found = {}
    for name, pays in (("lookup tables", True), ("Winograd", False)):
        with _lookups(pays):
            found[name] = _gradients(student, rounded, images)
    return {name: _summary(exact, each) for name, each in found.items()}


def _gradients(student: tf.keras.Model, load: Workload, images: Subset) -> Mapping[str, np.ndarray]:
    set_compute_policy(student, load.compute_policy)
    batch = next(iter(batches_of(load, images)))

    @tf.function
    def gradients() -> list[tf.Tensor]:
        with tf.GradientTape() as tape:
            logits = student(batch["inputs"], training=True)["logits"]
            loss = tf.nn.sparse_softmax_cross_entropy_with_logits(batch["labels"], logits)
        return tape.gradient(loss, student.trainable_variables)

    return {
        variable.name: gradient.numpy()
        for variable, gradient in zip(student.trainable_variables, gradients(), strict=True)
        if _is_binary_kernel(variable)
    }


def _is_binary_kernel(variable: tf.Variable) -> bool:
    channels = variable.shape[2] if variable.shape.rank == 4 else 0
    return channels > 3  # three are those of the stem


@contextmanager
def _lookups(pay: bool) -> Iterator[None]:
    """Gradients by lookup tables, or none of them so; whichever is faster on this CPU."""
    kept = convolution.LOOKUP_CHANNELS, convolution.has_fast_lookups
    if not pay:
        convolution.LOOKUP_CHANNELS = {}
    convolution.has_fast_lookups = lambda: pay
    try:
        yield
    finally:
        convolution.LOOKUP_CHANNELS, convolution.has_fast_lookups = kept


def _summary(
    exact: Mapping[str, np.ndarray], rounded: Mapping[str, np.ndarray]
) -> dict[str, float]:
    errors = [
        float(np.sqrt(np.mean((rounded[name] - each) ** 2) / np.mean(each**2)))
        for name, each in exact.items()
    ]
    return {"median": statistics.median(errors), "min": min(errors), "max": max(errors)}

"""The TensorFlow graph of a student's inference: its convolutions, by the layers that own kernels.

for use in kernel_uses(student):
    print(use.layer.name, use.operation.type, use.multiply_adds)

Unlike the list of Keras layers it shows what quantizers, paddings and nested layers really compute,
which is also the input of a converter.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

CONVOLUTION = "Conv2D"
_TRANSPOSED = "Conv2DBackpropInput"
# Operations with a kernel, and the indices of the activations and the kernel in their inputs.
_OPERAND_INDICES = {
    CONVOLUTION: (0, 1),
    "DepthwiseConv2dNative": (0, 1),
    "MatMul": (0, 1),
    _TRANSPOSED: (2, 1),
}
# Operations that copy their input; a converter removes all of them.
_COPIES = ("Identity", "IdentityN", "StopGradient", "PreventGradient")


@dataclass(frozen=True)
class KernelUse:
    """One convolution or matrix product of the graph.

    Attributes:
        layer: the layer of the student that owns the kernel (or contains the layer that does).
        operation: the tf.Operation.
        activations: its tf.Tensor of activations, [1, H, W, C] or [1, C].
        multiply_adds: of one image.
    """

    layer: tf.keras.layers.Layer
    operation: Any
    activations: Any
    multiply_adds: int


def kernel_uses(student: tf.keras.Model) -> list[KernelUse]:
    """All convolutions and matrix products of one image's inference, in graph order.

    Args:
        student: Keras model with a fixed input shape [N, H, W, C].
    """
    spec = tf.TensorSpec((1, *student.input_shape[1:]), student.input.dtype)
    graph = _inference_graph(student, spec)
    owners = {id(weight.handle): layer for layer in student.layers for weight in layer.weights}
    captured = {inner.op.name: owners.get(id(outer)) for outer, inner in graph.captures}
    uses = []
    for operation in graph.get_operations():
        if operation.type not in _OPERAND_INDICES:
            continue
        indices = _OPERAND_INDICES[operation.type]
        activations, kernel = (operation.inputs[index] for index in indices)
        layers = (captured.get(source.name) for source in _sources(kernel.op))
        layer = next((found for found in layers if found is not None), None)
        if layer is not None:
            uses.append(KernelUse(layer, operation, activations, _multiply_adds(operation)))
    return uses


def copied_tensor(tensor: Any) -> Any:
    """The tensor that `tensor` is a copy of; `tensor` itself where it is none."""
    while tensor.op.type in _COPIES:
        tensor = tensor.op.inputs[tensor.value_index]
    return tensor


def constant_value(tensor: Any) -> np.ndarray | None:
    """The value of a tensor that is a constant of the graph, else None."""
    return tf.get_static_value(copied_tensor(tensor))


def _inference_graph(student: tf.keras.Model, spec: tf.TensorSpec) -> Any:
    infer = tf.function(lambda pixels: student(pixels, training=False), autograph=False)
    # Nested functions (Keras has one for grouped convolutions) are to be traced into the graph, not
    # called from it.
    eagerly = tf.config.functions_run_eagerly()
    tf.config.run_functions_eagerly(True)
    try:
        return infer.get_concrete_function(spec).graph
    finally:
        tf.config.run_functions_eagerly(eagerly)


def _sources(operation: Any) -> Iterator[Any]:
    """The operations without inputs that an operation depends on."""
    pending, visited = [operation], set()
    while pending:
        operation = pending.pop()
        if operation.name in visited:
            continue
        visited.add(operation.name)
        if not operation.inputs:
            yield operation
        pending += [tensor.op for tensor in operation.inputs]


def _multiply_adds(operation: Any) -> int:
    """Number of output positions times the kernel's size."""
    kernel = operation.inputs[_OPERAND_INDICES[operation.type][1]]
    positions = operation.inputs[2] if operation.type == _TRANSPOSED else operation.outputs[0]
    # With the first dimension: a dilated convolution is one of several smaller maps.
    return int(np.prod(positions.shape[:-1]) * np.prod(kernel.shape))

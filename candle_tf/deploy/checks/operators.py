"""Checks which operators a converted file consists of.

counts = check_binary(flatbuffer, student)
counts = check_stock(float_flatbuffer)
"""

from collections import Counter
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.deploy.checks.errors import ExportError
from candle_tf.deploy.tflite.flatbuffer import (
    BINARY_CONVOLUTION,
    CONVOLUTION,
    DEPTHWISE_CONVOLUTION,
    DEQUANTIZE,
    FLOAT_OPERATORS,
    FULLY_CONNECTED,
    Operator,
    operators,
)
from candle_tf.students.layers.blocks import binary_layers


def check_binary(
    flatbuffer: bytes, student: tf.keras.Model, source: str = "the TFLite model"
) -> dict[str, int]:
    """Refuses a converted file in which anything became float that is binary in the student.

    Args:
        flatbuffer: the content of the file.
        student: the Keras model it was converted from.
        source: how messages call the file, best its path.

    Returns:
        How often each operator occurs, by name.

    Raises:
        ExportError: naming the layers that did not stay binary, or the tensors of operators that
            the student does not have.
        UserError: for a damaged file.
    """
    _refuse_unsupported_layers(student)
    steps = operators(flatbuffer, source)
    counts = Counter(step.name for step in steps)
    binary = binary_layers(student)
    if counts[BINARY_CONVOLUTION] != len(binary):
        # Where the kernel is no constant in the file, there is no telling which layer it was.
        names = _float_binary_layers(steps, student) or ["(kernels not in the file)"]
        raise ExportError(
            f"{source} has {counts[BINARY_CONVOLUTION]} binary convolutions where the student has "
            f"{len(binary)}; not binary: {', '.join(names)}. See to a sign right before each of "
            "them, padding with 1, and kernels of one scale per output channel."
        )
    _refuse_unexpected_operators(steps, student, source)
    return dict(counts)


def check_stock(flatbuffer: bytes, source: str = "the TFLite model") -> dict[str, int]:
    """Refuses a file that stock LiteRT cannot run.

    Args:
        flatbuffer: the content of the file.
        source: how messages call the file, best its path.

    Returns:
        How often each operator occurs, by name.

    Raises:
        ExportError: naming the operators that are not TFLite's own.
        UserError: for a damaged file.
    """
    steps = operators(flatbuffer, source)
    foreign = sorted({step.name for step in steps if step.is_custom})
    if foreign:
        raise ExportError(
            f"{source} has the operators {', '.join(foreign)}, which stock LiteRT does not know: "
            "convert the student without the Larq Compute Engine."
        )
    return dict(Counter(step.name for step in steps))


def _refuse_unsupported_layers(student: tf.keras.Model) -> None:
    """Of layers with kernels of one bit, the engine takes plain convolutions only."""
    supported = {layer.name for layer in binary_layers(student)}
    attributes = ("kernel_quantizer", "depthwise_quantizer", "pointwise_quantizer")
    others = [
        layer.name
        for layer in student.layers
        if layer.name not in supported
        and any(getattr(getattr(layer, name, None), "precision", None) == 1 for name in attributes)
    ]
    if others:
        raise ExportError(
            f"The Larq Compute Engine has no binary form of {', '.join(others)}: make them plain "
            "binary convolutions, or float."
        )


def _float_binary_layers(steps: list[Operator], student: tf.keras.Model) -> list[str]:
    """Names of the student's binary layers whose kernel is found in a float convolution.

    Tensor names do not tell: they begin with the batch normalisation fused into the convolution,
    and are cut before its own name. The signs of a kernel do: batch normalisation scales a
    channel, or flips all its signs.
    """
    floats = [
        step.weights.values
        for step in steps
        if step.name in FLOAT_OPERATORS and step.weights and step.weights.values is not None
    ]
    return [
        layer.name
        for layer in binary_layers(student)
        if any(same_signs(layer.kernel.numpy(), values) for values in floats)
    ]


def same_signs(kernel: np.ndarray, converted: np.ndarray) -> bool:
    """Whether the signs agree, up to one per output channel.

    Args:
        kernel: of the student, `[height, width, in, out]`.
        converted: of the file, `[out, height, width, in]`.
    """
    if converted.shape != (kernel.shape[-1], *kernel.shape[:-1]):
        return False
    signs = np.where(np.moveaxis(kernel, -1, 0) >= 0, 1, -1).reshape(len(converted), -1)
    products = signs * np.sign(converted.reshape(len(converted), -1))
    # A batch normalisation with a scale of 0 leaves a channel without signs.
    live = products.any(axis=1)
    return bool(live.any() and (np.abs(products[live].sum(axis=1)) == signs.shape[1]).all())


def _expected_float_layers(student: tf.keras.Model) -> dict[str, list[str]]:
    """Names of the student's float layers by the operator they become."""
    binary = {layer.name for layer in binary_layers(student)}
    kinds: dict[str, Any] = {
        DEPTHWISE_CONVOLUTION: tf.keras.layers.DepthwiseConv2D,
        CONVOLUTION: tf.keras.layers.Conv2D,
        FULLY_CONNECTED: tf.keras.layers.Dense,
    }
    return {
        operator: [
            layer.name
            for layer in student.layers
            if isinstance(layer, kind) and layer.name not in binary
        ]
        for operator, kind in kinds.items()
    }


def _refuse_unexpected_operators(
    steps: list[Operator], student: tf.keras.Model, source: str
) -> None:
    expected: dict[str, list[str]] = {DEQUANTIZE: [], **_expected_float_layers(student)}
    for operator, layers in expected.items():
        found = [" ".join(step.outputs) for step in steps if step.name == operator]
        if len(found) != len(layers):
            raise ExportError(
                f"{source} has {len(found)} {operator} ({', '.join(found) or 'none'}) where the "
                f"student has {len(layers)} ({', '.join(layers) or 'none'}): a sign's output is "
                "used in float, or a layer was not converted as it is in the student."
            )

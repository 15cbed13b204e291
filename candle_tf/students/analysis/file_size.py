"""A student's size in bytes on the device, predicted without converting it.

sum(shipped_bytes(layer, unconvertible=()) for layer in student.layers) + FILE_BYTES

The largest part of a converted file is constants. Their sizes follow from the layers: which kernels
are packed to bits, which weights are folded into others, which stay. The rest is records of
operators and tensors.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.students.layers.blocks import is_binary_conv
from candle_tf.students.layers.pooling import GlobalMeanPool

# The file's header, lists, signature and names of operators, which are in it once.
FILE_BYTES = 1000
# The records of an operator, of a tensor (with a name of some 30 letters), and of the options of a
# binary convolution. Measured on converted files of three kinds of student.
_OPERATOR_BYTES = 45
_TENSOR_BYTES = 100
_BINARY_OPTIONS_BYTES = 165
# The engine packs the input channels of a kernel's position into words of this many bits.
_WORD_BITS = 32
_WORD_BYTES = 4

# Layers that become part of the operator before them, or are used in training only.
_FUSED = (
    tf.keras.layers.InputLayer,
    tf.keras.layers.ReLU,
    tf.keras.layers.Dropout,
    tf.keras.layers.Reshape,
)
_CONVOLUTIONS = (tf.keras.layers.Conv2D, tf.keras.layers.DepthwiseConv2D)


def shipped_bytes(layer: Any, unconvertible: Collection[str]) -> int:
    """Bytes of a layer in the converted file; 0 where it is folded into another.

    Args:
        layer: of a student, built.
        unconvertible: names of the binary layers that become float ones.
    """
    binary = _is_binary(layer, unconvertible)
    constants = _constants(layer, unconvertible)
    operators = _operators(layer, unconvertible)
    # Each operator writes one tensor.
    tensors = operators + len(constants)
    return (
        _WORD_BYTES * sum(constants)
        + _OPERATOR_BYTES * operators
        + _TENSOR_BYTES * tensors
        + _BINARY_OPTIONS_BYTES * binary
    )


def _is_binary(layer: Any, unconvertible: Collection[str]) -> bool:
    return is_binary_conv(layer) and layer.name not in unconvertible


def _constants(layer: Any, unconvertible: Collection[str]) -> list[int]:
    """Sizes of the constants that a layer becomes, in words of 32 bits."""
    if _is_binary(layer, unconvertible):
        return _binary_constants(layer)
    channels = layer.output_shape[-1] if isinstance(layer.output_shape, tuple) else 0
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        return [] if _is_folded(layer, unconvertible) else [channels, channels]
    if isinstance(layer, _CONVOLUTIONS):
        # There is always a bias: batch normalisation is folded into it.
        return [layer.get_weights()[0].size, channels]
    if isinstance(layer, tf.keras.layers.Rescaling):
        return [np.size(layer.scale), np.size(layer.offset)]
    return [int(np.prod(weight.shape)) for weight in layer.weights]


def _binary_constants(layer: Any) -> list[int]:
    """The packed kernel, and a multiplier and a bias per output channel.

    Multiplier and bias are the kernel's scale and the batch normalisation. Those that are all 1, or
    all 0, are stored once for all layers.
    """
    height, width, channels, filters = layer.kernel.shape
    packed = int(height * width * -(-channels // _WORD_BITS) * filters)
    if any(isinstance(norm, tf.keras.layers.BatchNormalization) for norm in _followers(layer)):
        return [packed, filters, filters]
    kernel = layer.kernel_quantizer(tf.constant(layer.get_weights()[0])).numpy()
    is_scaled = not np.all(np.abs(kernel) == 1)
    return [packed, *[filters] * (is_scaled + layer.use_bias)]


def _followers(layer: Any) -> list[Any]:
    """The layers that read a layer's output, directly or after a ReLU, which is fused."""
    found = [node.layer for node in layer.outbound_nodes]
    fused = [each for each in found if isinstance(each, tf.keras.layers.ReLU)]
    return found + [node.layer for each in fused for node in each.outbound_nodes]


def _is_folded(norm: Any, unconvertible: Collection[str]) -> bool:
    """Whether a batch normalisation is folded into the convolution before it."""
    (before,) = parents(norm)
    if isinstance(before, tf.keras.layers.ReLU):
        # After a ReLU it is not folded into a float convolution.
        return _is_binary(parents(before)[0], unconvertible)
    if _is_binary(before, unconvertible):
        return True
    is_linear = getattr(before, "activation", None) in (None, tf.keras.activations.linear)
    return is_linear and isinstance(before, (*_CONVOLUTIONS, tf.keras.layers.Dense))


def _operators(layer: Any, unconvertible: Collection[str]) -> int:
    """Number of operators that a layer becomes."""
    if isinstance(layer, _FUSED):
        return 0
    if isinstance(layer, tf.keras.layers.BatchNormalization):
        return 0 if _is_folded(layer, unconvertible) else 2
    if isinstance(layer, tf.keras.layers.Rescaling | GlobalMeanPool):
        return 2
    if isinstance(layer, (*_CONVOLUTIONS, tf.keras.layers.Dense)):
        fused = (None, tf.keras.activations.linear, tf.keras.activations.relu)
        quantizer = getattr(layer, "input_quantizer", None) is not None
        return 1 + quantizer + (layer.activation not in fused)
    # One for each weight that is added or multiplied, and for each input beside the first.
    return max(1, len(layer.weights) + len(parents(layer)) - 1)


def parents(layer: Any) -> list[Any]:
    """The layers whose outputs a layer reads."""
    return tf.nest.flatten(layer.inbound_nodes[0].inbound_layers)

"""How many bytes a student takes on the device, predicted without converting it.

sum(shipped_bytes(layer, unconvertible=()) for layer in student.layers) + FILE_BYTES

Of a converted file the largest part are constants, whose sizes follow from the layers: bits packed
into words, what is folded, what stays. The rest are records of operators and tensors.
"""

from collections.abc import Collection
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.students.layers.blocks import is_binary_conv
from candle_tf.students.layers.pooling import GlobalMeanPool

# The head of the file, and what is in it once: the lists, the signature, the names of operators.
FILE_BYTES = 1000
# An operator's record; a tensor's, with its name of some 30 letters; the options of a binary
# convolution. Measured on converted files of three kinds of student.
_OPERATOR_BYTES = 45
_TENSOR_BYTES = 100
_BINARY_OPTIONS_BYTES = 165
# The engine packs the input channels of a kernel's position into words of this many bits.
_WORD_BITS = 32
_WORD_BYTES = 4

# Disappear in the operator before them, or were only there for the training.
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
        # The bias is there in any case: batch normalisation goes into it.
        return [layer.get_weights()[0].size, channels]
    if isinstance(layer, tf.keras.layers.Rescaling):
        return [np.size(layer.scale), np.size(layer.offset)]
    return [int(np.prod(weight.shape)) for weight in layer.weights]


def _binary_constants(layer: Any) -> list[int]:
    """The packed kernel, and a multiplier and a bias per output channel.

    They hold the kernel's scale and the batch normalisation. Those that are all 1, or all 0, are
    stored once for all layers.
    """
    height, width, channels, filters = layer.kernel.shape
    packed = int(height * width * -(-channels // _WORD_BITS) * filters)
    if any(isinstance(norm, tf.keras.layers.BatchNormalization) for norm in _followers(layer)):
        return [packed, filters, filters]
    kernel = layer.kernel_quantizer(tf.constant(layer.get_weights()[0])).numpy()
    is_scaled = not np.all(np.abs(kernel) == 1)
    return [packed, *[filters] * (is_scaled + layer.use_bias)]


def _followers(layer: Any) -> list[Any]:
    """The layers that take a layer's output, behind a ReLU too, which is fused."""
    found = [node.layer for node in layer.outbound_nodes]
    fused = [each for each in found if isinstance(each, tf.keras.layers.ReLU)]
    return found + [node.layer for each in fused for node in each.outbound_nodes]


def _is_folded(norm: Any, unconvertible: Collection[str]) -> bool:
    """Whether a batch normalisation disappears in the convolution before it."""
    (before,) = parents(norm)
    if isinstance(before, tf.keras.layers.ReLU):
        # Float convolutions do not take it in behind a ReLU.
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
    """The layers whose outputs a layer takes."""
    return tf.nest.flatten(layer.inbound_nodes[0].inbound_layers)

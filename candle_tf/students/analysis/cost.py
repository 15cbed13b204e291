"""What a student costs on the device, layer by layer.

summary = summarize(student)
summary.ops, summary.bytes              # operations of one image, bytes of the converted file
summary.layers[3].problem               # why that binary layer will not convert, or None
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.students.analysis.file_size import FILE_BYTES, parents, shipped_bytes
from candle_tf.students.analysis.inference_graph import kernel_uses
from candle_tf.students.analysis.preflight import conversion_problems
from candle_tf.students.layers.blocks import is_binary_conv

# A 64-bit processor computes this many binary multiply-adds in the time of one in float.
BINARY_PER_FLOAT = 64
_LOCAL = (
    tf.keras.layers.Conv2D,
    tf.keras.layers.DepthwiseConv2D,
    tf.keras.layers.SeparableConv2D,
)


@dataclass(frozen=True)
class LayerCost:
    """What one layer costs. A binary layer that will not convert is counted as a float layer.

    Attributes:
        name: of the layer.
        kind: its class.
        output: shape of its output for one image, [H, W, C] or [C].
        receptive_field: side in pixels of the part of the image that one output depends on, through
            convolutions and local pools, including padding; None from the global average on.
        binary_parameters: weights of one bit.
        float_parameters: trained weights of 32 bits.
        frozen_parameters: weights that are not trained: statistics of batch normalisation, fixed
            kernels.
        binary_multiply_adds: of one image.
        float_multiply_adds: of one image, in convolutions and matrix products.
        bytes: its predicted size in the converted file.
        converts: whether it will be a binary convolution; None for layers that are in float.
        problem: why it will not be; None otherwise.
    """

    name: str
    kind: str
    output: tuple[int, ...]
    receptive_field: int | None
    binary_parameters: int
    float_parameters: int
    frozen_parameters: int
    binary_multiply_adds: int
    float_multiply_adds: int
    bytes: int
    converts: bool | None
    problem: str | None

    @property
    def ops(self) -> float:
        """Operations: binary multiply-adds / 64 + those in float."""
        return self.binary_multiply_adds / BINARY_PER_FLOAT + self.float_multiply_adds


@dataclass(frozen=True)
class Summary:
    """The costs of all layers of a student, and of the whole.

    Attributes:
        name: of the student.
        input_shape: [H, W, 3].
        layers: in order of computation.
    """

    name: str
    input_shape: tuple[int, ...]
    layers: tuple[LayerCost, ...]

    @property
    def binary_parameters(self) -> int:
        """Weights of one bit."""
        return sum(layer.binary_parameters for layer in self.layers)

    @property
    def float_parameters(self) -> int:
        """Trained weights of 32 bits."""
        return sum(layer.float_parameters for layer in self.layers)

    @property
    def frozen_parameters(self) -> int:
        """Untrained weights of 32 bits."""
        return sum(layer.frozen_parameters for layer in self.layers)

    @property
    def binary_multiply_adds(self) -> int:
        """Of one image."""
        return sum(layer.binary_multiply_adds for layer in self.layers)

    @property
    def float_multiply_adds(self) -> int:
        """Of one image."""
        return sum(layer.float_multiply_adds for layer in self.layers)

    @property
    def ops(self) -> float:
        """Operations of one image: binary multiply-adds / 64 + those in float."""
        return sum(layer.ops for layer in self.layers)

    @property
    def bytes(self) -> int:
        """Predicted size of the converted file."""
        return sum(layer.bytes for layer in self.layers) + FILE_BYTES

    @property
    def problems(self) -> list[tuple[str, str]]:
        """(layer, reason) of all binary layers that will not convert."""
        return [(layer.name, layer.problem) for layer in self.layers if layer.problem is not None]


def summarize(student: tf.keras.Model) -> Summary:
    """Counts what a student costs; OPs as in the literature on binary networks.

    Args:
        student: Keras model from pixels [N, H, W, 3], with H and W fixed. The values of its weights
            matter only for dead channels.

    Source of the OPs: Bi-Real Net (Liu et al., ECCV 2018), section 5.3.
    """
    problems = dict(conversion_problems(student))
    multiply_adds: dict[str, int] = dict.fromkeys((layer.name for layer in student.layers), 0)
    for use in kernel_uses(student):
        multiply_adds[use.layer.name] += use.multiply_adds
    fields = _receptive_fields(student)
    costs = [
        _cost(layer, multiply_adds[layer.name], fields[layer.name][0], problems)
        for layer in student.layers
    ]
    return Summary(student.name, tuple(student.input_shape[1:]), tuple(costs))


def _cost(
    layer: Any, multiply_adds: int, receptive_field: int | None, problems: dict[str, str]
) -> LayerCost:
    problem = problems.get(layer.name)
    one_bit = is_binary_conv(layer)
    binary = one_bit and problem is None
    kernel = layer.kernel if binary else None
    trained = [weight for weight in layer.trainable_weights if weight is not kernel]
    frozen = [weight for weight in layer.non_trainable_weights if weight is not kernel]
    return LayerCost(
        name=layer.name,
        kind=type(layer).__name__,
        output=_output_shape(layer),
        receptive_field=receptive_field,
        binary_parameters=_size(kernel) if binary else 0,
        float_parameters=sum(map(_size, trained)),
        frozen_parameters=sum(map(_size, frozen)),
        binary_multiply_adds=multiply_adds if binary else 0,
        float_multiply_adds=0 if binary else multiply_adds,
        bytes=shipped_bytes(layer, problems),
        converts=binary if one_bit or problem else None,
        problem=problem,
    )


def _size(weight: Any) -> int:
    return int(np.prod(weight.shape))


def _output_shape(layer: Any) -> tuple[int, ...]:
    shape = layer.output_shape
    return tuple((shape[0] if isinstance(shape, list) else shape)[1:])


def _receptive_fields(student: tf.keras.Model) -> dict[str, tuple[int | None, int]]:
    """For each layer the receptive field and the stride, both in pixels of the image."""
    fields: dict[str, tuple[int | None, int]] = {}
    for layer in student.layers:
        if isinstance(layer, tf.keras.layers.InputLayer):
            fields[layer.name] = (1, 1)
            continue
        known = [fields[parent.name] for parent in parents(layer)]
        side, stride = max(((f, s) for f, s in known if f is not None), default=(None, 1))
        if side is None or len(_output_shape(layer)) != 3 or _is_global(layer):
            fields[layer.name] = (None, 1)
            continue
        window, dilation, step = _window(layer)
        fields[layer.name] = (side + (window - 1) * dilation * stride, stride * step)
    return fields


def _window(layer: Any) -> tuple[int, int, int]:
    """Height, dilation and stride of a convolution or pool; all 1 for other layers."""
    if isinstance(layer, tf.keras.layers.AveragePooling2D | tf.keras.layers.MaxPooling2D):
        return layer.pool_size[0], 1, layer.strides[0]
    if isinstance(layer, _LOCAL) and not isinstance(layer, tf.keras.layers.Conv2DTranspose):
        return layer.kernel_size[0], layer.dilation_rate[0], layer.strides[0]
    return 1, 1, 1


def _is_global(layer: Any) -> bool:
    return isinstance(
        layer, tf.keras.layers.GlobalAveragePooling2D | tf.keras.layers.GlobalMaxPooling2D
    )

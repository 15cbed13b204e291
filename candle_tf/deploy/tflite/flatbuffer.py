"""What a TFLite file holds: its operators, their outputs' names and their weights.

counts = Counter(operator.name for operator in operators(path.read_bytes(), str(path)))
counts["LceBconv2d"]
watched = append_outputs(path.read_bytes(), [7])    # the same file, which gives tensor 7 as well
"""

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from candle_tf.errors import UserError

BINARY_CONVOLUTION = "LceBconv2d"
DEQUANTIZE = "LceDequantize"
CONVOLUTION = "CONV_2D"
DEPTHWISE_CONVOLUTION = "DEPTHWISE_CONV_2D"
FULLY_CONNECTED = "FULLY_CONNECTED"
FLOAT_OPERATORS = (CONVOLUTION, DEPTHWISE_CONVOLUTION, FULLY_CONNECTED)

_BUILTIN_NAMES = {
    code: name for name, code in vars(schema.BuiltinOperator).items() if isinstance(code, int)
}
_PADDINGS = ("PAD", "PADV2", "MIRROR_PAD")
_WORD_BITS = 32
# The offset of a subgraph's outputs in its vtable, as the schema has it.
_OUTPUTS_FIELD = 8
# What reading at a wrong offset raises, in the flatbuffers library and in NumPy.
_UNREADABLE = (struct.error, LookupError, OverflowError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Weights:
    """A constant of the file: `values` for float32 and int32, else None; `size` is in bytes."""

    name: str
    shape: tuple[int, ...]
    size: int
    values: np.ndarray | None = field(compare=False, repr=False)


@dataclass(frozen=True)
class Operator:
    """One step of the graph.

    Attributes:
        name: TFLite's built-in name ("CONV_2D") or the custom one ("LceBconv2d").
        is_custom: whether it is none of TFLite's own, so that stock LiteRT cannot run it.
        outputs: names of the output tensors. The converter joins the names of all steps it fused,
            last one first, and cuts the whole.
        weights: the kernel of a convolution or fully connected operator (float ones
            `[out, height, width, in]` and `[out, in]`); None for the other operators.
        source: number of the tensor that is its first input, before it is padded.
    """

    name: str
    is_custom: bool
    outputs: tuple[str, ...]
    weights: Weights | None
    source: int


def operators(flatbuffer: bytes, source: str = "the TFLite model") -> list[Operator]:
    """Reads a file's operators, in the order in which they run.

    Args:
        flatbuffer: the content of a TFLite file.
        source: how messages call it, best its path.

    Raises:
        UserError: where the bytes are no TFLite file, or a damaged one.
    """
    if not schema.Model.ModelBufferHasIdentifier(flatbuffer.ljust(8, b"\0"), 0):
        raise UserError(
            f"{source} is not a TFLite file ({len(flatbuffer)} bytes): export it again."
        )
    try:
        return _operators(schema.Model.GetRootAsModel(flatbuffer, 0))
    except _UNREADABLE as error:
        raise UserError(f"{source} is damaged ({error}): export it again.") from error


def unpack_signs(words: np.ndarray, channels: int) -> np.ndarray:
    """Signs that the Larq Compute Engine has packed, 32 channels a word.

    Args:
        words: int32 `[..., ceil(channels / 32)]`; a bit of 1 is a sign of -1, the lowest first.
        channels: how many of the last word's bits count.

    Returns:
        float32 `[..., channels]` of -1 and +1.
    """
    bits = words.view(np.uint32)[..., None] >> np.arange(_WORD_BITS, dtype=np.uint32) & 1
    signs = 1 - 2 * bits.astype(np.float32)
    return signs.reshape(*words.shape[:-1], -1)[..., :channels]


def append_outputs(flatbuffer: bytes, tensors: Sequence[int]) -> bytes:
    """The same file with more outputs: tensors that lie between its operators.

    All of the file stays where it is, byte for byte. A longer list of outputs is written behind it,
    and the reference to the list is changed.

    Args:
        flatbuffer: the content of a TFLite file.
        tensors: their numbers, as in `Operator.source`.

    Raises:
        UserError: for a damaged file.
    """
    operators(flatbuffer)
    graph = schema.Model.GetRootAsModel(flatbuffer, 0).Subgraphs(0)
    place = graph._tab.Pos + graph._tab.Offset(_OUTPUTS_FIELD)
    listed = [*graph.OutputsAsNumpy().tolist(), *tensors]
    content = bytearray(flatbuffer.ljust(-(-len(flatbuffer) // 4) * 4, b"\0"))
    struct.pack_into("<I", content, place, len(content) - place)
    return bytes(content) + struct.pack(f"<I{len(listed)}i", len(listed), *listed)


def _operators(model: Any) -> list[Operator]:
    graph = model.Subgraphs(0)
    buffers = [_content(model.Buffers(index)) for index in range(model.BuffersLength())]
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    found: list[Operator] = []
    padded: dict[int, int] = {}
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        found.append(_operator(operator, model, tensors, buffers, padded))
        if found[-1].name in _PADDINGS:
            padded[operator.Outputs(0)] = found[-1].source
    return found


def _content(buffer: Any) -> np.ndarray:
    return np.frombuffer(b"", np.uint8) if buffer.DataLength() == 0 else buffer.DataAsNumpy()


def _operator(
    operator: Any,
    model: Any,
    tensors: list[Any],
    buffers: list[np.ndarray],
    padded: dict[int, int],
) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    name = _name(code)
    outputs = [tensors[operator.Outputs(index)] for index in range(operator.OutputsLength())]
    weights = None
    if name in (*FLOAT_OPERATORS, BINARY_CONVOLUTION):
        tensor = tensors[operator.Inputs(1)]
        weights = _weights(tensor, buffers[tensor.Buffer()])
    names = tuple(output.Name().decode() for output in outputs)
    first = operator.Inputs(0) if operator.InputsLength() else -1
    source = padded.get(first, first)
    return Operator(name, code.CustomCode() is not None, names, weights, source)


def _name(code: Any) -> str:
    if code.CustomCode():
        return code.CustomCode().decode()
    # Files of older converters hold the code in the deprecated field, and 0 in the newer one.
    return _BUILTIN_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]


def _weights(tensor: Any, content: np.ndarray) -> Weights | None:
    if content.size == 0:
        return None
    shape = tuple(tensor.ShapeAsNumpy().tolist())
    types = {schema.TensorType.FLOAT32: np.float32, schema.TensorType.INT32: np.int32}
    kind = types.get(tensor.Type())
    values = None if kind is None else content.view(kind).reshape(shape)
    return Weights(tensor.Name().decode(), shape, content.nbytes, values)

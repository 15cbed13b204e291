"""What a TFLite file holds: its operators, their outputs' names and their weights.

counts = Counter(operator.name for operator in operators(path.read_bytes(), str(path)))
counts["LceBconv2d"]
"""

import struct
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
# What reading at a wrong offset raises, in the flatbuffers library and in NumPy.
_UNREADABLE = (struct.error, LookupError, OverflowError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Weights:
    """A constant of the file: `values` for float32, else None; `size` is what it takes, bytes."""

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
    """

    name: str
    is_custom: bool
    outputs: tuple[str, ...]
    weights: Weights | None


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


def _operators(model: Any) -> list[Operator]:
    graph = model.Subgraphs(0)
    buffers = [_content(model.Buffers(index)) for index in range(model.BuffersLength())]
    tensors = [graph.Tensors(index) for index in range(graph.TensorsLength())]
    return [
        _operator(graph.Operators(index), model, tensors, buffers)
        for index in range(graph.OperatorsLength())
    ]


def _content(buffer: Any) -> np.ndarray:
    return np.frombuffer(b"", np.uint8) if buffer.DataLength() == 0 else buffer.DataAsNumpy()


def _operator(operator: Any, model: Any, tensors: list[Any], buffers: list[np.ndarray]) -> Operator:
    code = model.OperatorCodes(operator.OpcodeIndex())
    name = _name(code)
    outputs = [tensors[operator.Outputs(index)] for index in range(operator.OutputsLength())]
    weights = None
    if name in (*FLOAT_OPERATORS, BINARY_CONVOLUTION):
        tensor = tensors[operator.Inputs(1)]
        weights = _weights(tensor, buffers[tensor.Buffer()])
    names = tuple(output.Name().decode() for output in outputs)
    return Operator(name, code.CustomCode() is not None, names, weights)


def _name(code: Any) -> str:
    if code.CustomCode():
        return code.CustomCode().decode()
    # Files of older converters hold the code in the deprecated field, and 0 in the newer one.
    return _BUILTIN_NAMES[max(code.BuiltinCode(), code.DeprecatedBuiltinCode())]


def _weights(tensor: Any, content: np.ndarray) -> Weights | None:
    if content.size == 0:
        return None
    shape = tuple(tensor.ShapeAsNumpy().tolist())
    values = None
    if tensor.Type() == schema.TensorType.FLOAT32:
        values = content.view(np.float32).reshape(shape)
    return Weights(tensor.Name().decode(), shape, content.nbytes, values)

"""One loaded version of a SavedModel, called by signature.

servable = load_servable(Path("export/saved_model/1"), version=1)
outputs = servable.call("serving_default", {"image_bytes": np.array([jpeg], object)})

Stock TensorFlow loads it; nothing of this package runs in the graph.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from candle_tf.serving.limits import MAX_BATCH_SIZE
from candle_tf.serving.status import (
    FAILED_PRECONDITION,
    INVALID_ARGUMENT,
    RequestError,
    graph_errors_as_refusals,
)

DEFAULT_SIGNATURE = "serving_default"


@dataclass(frozen=True)
class Servable:
    """A version that can be called.

    Attributes:
        version: its number.
        signatures: SignatureDef by name, as saved.
    """

    version: int
    signatures: Mapping[str, Any]
    _loaded: Any

    def signature(self, name: str) -> Any:
        """The SignatureDef of a name; of "" the default one.

        Raises:
            RequestError: FAILED_PRECONDITION where there is none.
        """
        name = name or DEFAULT_SIGNATURE
        if name not in self._loaded.signatures:
            raise RequestError(FAILED_PRECONDITION, f'Serving signature key "{name}" not found.')
        return self.signatures[name]

    def call(
        self, name: str, inputs: Mapping[str, np.ndarray], outputs: Sequence[str] = ()
    ) -> dict[str, np.ndarray]:
        """Runs a signature.

        Args:
            name: of the signature; "" is the default one.
            inputs: one array for each of its inputs; strings as arrays of bytes objects.
            outputs: which outputs to give; none means all.

        Raises:
            RequestError: INVALID_ARGUMENT for inputs that are not the signature's, and for what the
                graph itself refuses, such as a bad image.
        """
        definition = self.signature(name)
        check_names(definition, inputs, outputs)
        tensors = {key: _tensor(key, definition.inputs[key], inputs[key]) for key in inputs}
        with graph_errors_as_refusals():
            results = self._loaded.signatures[name or DEFAULT_SIGNATURE](**tensors)
            return {key: results[key].numpy() for key in outputs or sorted(results)}


def load_servable(folder: Path, version: int) -> Servable:
    """Loads a SavedModel.

    Raises:
        Exception: whatever TensorFlow raises for a folder that holds none.
    """
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return Servable(
        version, dict(saved.meta_graphs[0].signature_def), tf.saved_model.load(str(folder))
    )


def check_names(definition: Any, inputs: Iterable[str], outputs: Sequence[str]) -> None:
    """Refuses names that are not all of a signature's inputs, or not among its outputs.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    given, wanted = set(inputs), set(definition.inputs)
    if len(given) != len(wanted):
        raise RequestError(
            INVALID_ARGUMENT,
            f"input size does not match signature: {len(given)}!={len(wanted)}. Sent extra: "
            f"{_format_names(given - wanted)}. Missing but required: "
            f"{_format_names(wanted - given)}.",
        )
    for name in sorted(given - wanted):
        raise RequestError(
            INVALID_ARGUMENT,
            f"input tensor alias not found in signature: {name}. Inputs expected to be in the "
            f"set {_format_names(wanted)}.",
        )
    for name in outputs:
        if name not in definition.outputs:
            raise RequestError(
                INVALID_ARGUMENT,
                f"output tensor alias not found in signature: {name} Outputs expected to be in "
                f"the set {_format_names(set(definition.outputs))}.",
            )
    if len(set(outputs)) != len(outputs):
        raise RequestError(INVALID_ARGUMENT, f"duplicate output tensor alias in {list(outputs)}")


def check_tensor(name: str, info: Any, given: tf.DType, sizes: Sequence[int]) -> None:
    """Refuses a tensor that is not the signature's, or too large, before it is made.

    Args:
        name: of the input.
        info: its TensorInfo.
        given: the type of the tensor.
        sizes: of its dimensions, as the request states them.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    expected = tf.dtypes.as_dtype(info.dtype)
    if given != expected:
        raise RequestError(
            INVALID_ARGUMENT, f"input {name} is {given.name} where {expected.name} is expected"
        )
    shape = tf.TensorShape(info.tensor_shape)
    if min(sizes, default=0) < 0 or not shape.is_compatible_with(sizes):
        raise RequestError(
            INVALID_ARGUMENT, f"input {name} has shape {list(sizes)} where {shape} is expected"
        )
    if 0 in sizes:
        raise RequestError(
            INVALID_ARGUMENT, f"input {name} has shape {list(sizes)}: send at least one example"
        )
    if shape.rank and shape[0] is None and sizes[0] > MAX_BATCH_SIZE:
        raise RequestError(
            INVALID_ARGUMENT,
            f"input {name} has {sizes[0]} examples: send at most {MAX_BATCH_SIZE} in a request",
        )


def _tensor(name: str, info: Any, value: np.ndarray) -> tf.Tensor:
    """A tensor of the signature's type and shape; TensorFlow itself would convert a type."""
    given = tf.string if value.dtype == object else tf.dtypes.as_dtype(value.dtype)
    check_tensor(name, info, given, value.shape)
    return tf.constant(value, given)


def _format_names(names: set[str]) -> str:
    return "{" + ",".join(sorted(names)) + "}"

"""JSON of the REST protocol to arrays and back, by row or by column.

inputs, by_row = inputs_of({"instances": [{"b64": "..."}]}, signature.inputs)
body = body_of(outputs, by_row)       # {"predictions": [...]}
"""

import base64
import binascii
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.serving.status import INVALID_ARGUMENT, RequestError

ROW, COLUMNAR = "instances", "inputs"
_BASE64 = "b64"
# A tensor so called holds bytes and not text.
_BYTES = "_bytes"


def inputs_of(body: Any, infos: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], bool]:
    """Reads the inputs of a request.

    Args:
        body: the request as JSON gives it.
        infos: TensorInfo of the signature's inputs.

    Returns:
        The arrays by input, and whether they were given by row.

    Raises:
        RequestError: INVALID_ARGUMENT.
    """
    if (ROW in body) == (COLUMNAR in body):
        raise RequestError(
            INVALID_ARGUMENT,
            f"Not formatted correctly expecting only one of '{COLUMNAR}' or '{ROW}' keys to exist"
            if ROW in body
            else f"Missing '{COLUMNAR}' or '{ROW}' key",
        )
    if COLUMNAR in body:
        columns = body[COLUMNAR]
        if not _is_named(columns):
            columns = {_only_name(infos, COLUMNAR): columns}
    else:
        columns = _columns(body[ROW], infos)
    return {name: _array(name, value, infos) for name, value in columns.items()}, ROW in body


def body_of(outputs: Mapping[str, np.ndarray], by_row: bool) -> dict[str, Any]:
    """The response's JSON; a single output has no name."""
    values = {name: _plain(name, value) for name, value in outputs.items()}
    if not by_row:
        return {"outputs": values if len(values) > 1 else next(iter(values.values()))}
    if len({len(value) for value in outputs.values()}) != 1:
        raise RequestError(
            INVALID_ARGUMENT, "outputs of different batch sizes cannot be given by row"
        )
    if len(values) == 1:
        return {"predictions": next(iter(values.values()))}
    rows = zip(*values.values(), strict=True)
    return {"predictions": [dict(zip(values, row, strict=True)) for row in rows]}


def _columns(rows: Any, infos: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Lists of values by input, of a list of values or of objects."""
    if not isinstance(rows, list) or not rows:
        raise RequestError(INVALID_ARGUMENT, f"Expecting '{ROW}' to be a list with values")
    if not _is_named(rows[0]):
        name = _only_name(infos, ROW)
        if any(_is_named(row) for row in rows):
            raise RequestError(INVALID_ARGUMENT, f"'{ROW}' mixes values and objects")
        return {name: rows}
    for number, row in enumerate(rows):
        if not _is_named(row) or set(row) != set(infos):
            raise RequestError(
                INVALID_ARGUMENT,
                f"Failed to process element: {number} of '{ROW}' list: "
                f"keys must be equal to: {','.join(sorted(infos))}",
            )
    return {name: [row[name] for row in rows] for name in rows[0]}


def _array(name: str, value: Any, infos: Mapping[str, Any]) -> np.ndarray:
    if name not in infos:
        raise RequestError(INVALID_ARGUMENT, f"JSON object: does not have named input: {name}")
    dtype = tf.dtypes.as_dtype(infos[name].dtype)
    if dtype == tf.string:
        return _strings(name, _without_base64(value))
    try:
        array = np.array(value)
    except (ValueError, OverflowError) as error:  # lists of different lengths
        raise RequestError(INVALID_ARGUMENT, f"input {name} is no tensor: {error}") from error
    if array.size == 0:
        return np.zeros(array.shape, dtype.as_numpy_dtype)
    fits = array.dtype.kind in ("iu" if dtype.is_integer else "iuf") and (
        not dtype.is_integer or (dtype.min <= array.min() and array.max() <= dtype.max)
    )
    if not fits:
        raise _wrong_type(name, dtype)
    return array.astype(dtype.as_numpy_dtype)


def _strings(name: str, value: Any) -> np.ndarray:
    # NumPy's own strings would lose zeros at the end.
    array = np.array(value, object)
    if not all(isinstance(item, bytes | str) for item in array.flat):
        raise _wrong_type(name, tf.string)
    for index, item in np.ndenumerate(array):
        array[index] = item.encode() if isinstance(item, str) else item
    return array


def _without_base64(value: Any) -> Any:
    if isinstance(value, list):
        return [_without_base64(item) for item in value]
    if not isinstance(value, dict):
        return value
    encoded = value.get(_BASE64)
    if set(value) != {_BASE64} or not isinstance(encoded, str):
        raise RequestError(INVALID_ARGUMENT, "JSON Value not formatted correctly for base64 data")
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(INVALID_ARGUMENT, "Unable to base64 decode") from error


def _plain(name: str, value: np.ndarray) -> Any:
    if value.dtype != object:
        return value.tolist()
    texts = [_text(name, item) for item in value.flat]
    return np.array(texts, object).reshape(value.shape).tolist()


def _text(name: str, item: bytes) -> Any:
    if name.endswith(_BYTES):
        return {_BASE64: base64.b64encode(item).decode()}
    return item.decode("utf-8", "replace")


def _is_named(value: Any) -> bool:
    """Whether a value is an object of named inputs, and not one of base64."""
    return isinstance(value, dict) and set(value) != {_BASE64}


def _only_name(infos: Mapping[str, Any], key: str) -> str:
    if len(infos) != 1:
        raise RequestError(
            INVALID_ARGUMENT,
            f"{key} is a plain value/list, but expecting an object as multiple input tensors "
            "required as per tensorinfo_map",
        )
    return next(iter(infos))


def _wrong_type(name: str, dtype: tf.DType) -> RequestError:
    return RequestError(
        INVALID_ARGUMENT, f"JSON Value of {name} is not of expected type: {dtype.name}"
    )

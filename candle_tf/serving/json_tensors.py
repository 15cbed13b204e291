"""JSON of the REST protocol to arrays and back, by row or by column.

inputs, by_row = inputs_of({"instances": [{"b64": "..."}]}, signature.inputs)
body = body_of(outputs, by_row)       # {"predictions": [...]}
"""

import base64
import binascii
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.serving.limits import MAX_BATCH_SIZE
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
        columns = _named_inputs(body[COLUMNAR], infos)
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


def _named_inputs(value: Any, infos: Mapping[str, Any]) -> dict[str, Any]:
    """The value of each input; TensorFlow Serving ignores what else an object holds."""
    if not _is_named(value):
        return {_only_name(infos, COLUMNAR): value}
    for name in sorted(infos):
        if name not in value:
            raise RequestError(
                INVALID_ARGUMENT, f"Missing named input: {name} in '{COLUMNAR}' object."
            )
    return {name: value[name] for name in infos}


def _columns(rows: Any, infos: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Lists of values by input, of a list of values or of objects."""
    if not isinstance(rows, list) or not rows:
        raise RequestError(INVALID_ARGUMENT, f"Expecting '{ROW}' to be a list with values")
    if len(rows) > MAX_BATCH_SIZE:
        raise _too_many(f"'{ROW}'", rows)
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
    dtype = tf.dtypes.as_dtype(infos[name].dtype)
    shape = tf.TensorShape(infos[name].tensor_shape)
    if isinstance(value, list) and len(value) > MAX_BATCH_SIZE and shape.rank and shape[0] is None:
        raise _too_many(f"input {name}", value)
    try:
        # As objects: an array of NumPy's own strings would have the size of the longest for all,
        # and would lose zeros at the end.
        array = np.array(value, object)
    except ValueError as error:
        raise RequestError(INVALID_ARGUMENT, f"input {name} is no tensor: {error}") from error
    if dtype == tf.string:
        return _encode_strings(name, array)
    return _convert_numbers(name, array, dtype)


def _convert_numbers(name: str, array: np.ndarray, dtype: tf.DType) -> np.ndarray:
    """Numbers as the signature's type, refused where they are others."""
    types = set(map(type, array.flat))
    if list in types:
        raise RequestError(
            INVALID_ARGUMENT,
            f"input {name} is no tensor: its lists have different lengths, or too many dimensions",
        )
    # Not by isinstance: a bool is an int.
    if not types <= ({int} if dtype.is_integer else {int, float}):
        raise _wrong_type(name, dtype)
    if not array.size:
        return np.zeros(array.shape, dtype.as_numpy_dtype)
    try:
        numbers = array.astype(np.int64 if dtype.is_integer else np.float64)
    except OverflowError as error:
        raise _wrong_type(name, dtype) from error
    if dtype.is_integer and not (dtype.min <= numbers.min() and numbers.max() <= dtype.max):
        raise _wrong_type(name, dtype)
    with np.errstate(over="ignore"):
        return numbers.astype(dtype.as_numpy_dtype)


def _encode_strings(name: str, array: np.ndarray) -> np.ndarray:
    encoded = np.empty(array.shape, object)
    for index, item in np.ndenumerate(array):
        if isinstance(item, str):
            encoded[index] = item.encode()
        elif isinstance(item, dict):
            encoded[index] = _decode_object(item)
        else:
            raise _wrong_type(name, tf.string)
    return encoded


def _decode_object(value: dict[str, Any]) -> bytes:
    encoded = value.get(_BASE64)
    if set(value) != {_BASE64} or not isinstance(encoded, str):
        raise RequestError(INVALID_ARGUMENT, "JSON Value not formatted correctly for base64 data")
    try:
        return _decode_base64(encoded)
    except (binascii.Error, ValueError) as error:
        raise RequestError(INVALID_ARGUMENT, "Unable to base64 decode") from error


def _decode_base64(text: str) -> bytes:
    """As TensorFlow Serving (`absl::Base64Unescape`): white space anywhere, padding optional.

    Raises:
        ValueError: for other characters, a wrong number of them, and wrong padding.
    """
    compact = re.sub(r"[ \t\n\v\f\r]+", "", text)
    digits = compact.rstrip("=.")
    missing = -len(digits) % 4
    if missing == 3 or len(compact) - len(digits) not in (0, missing):
        raise ValueError("wrong length or padding")
    return base64.b64decode(digits + "=" * missing, validate=True)


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


def _too_many(what: str, examples: list[Any]) -> RequestError:
    """Before an array is made of them; `servable.check_tensor` is for both protocols."""
    return RequestError(
        INVALID_ARGUMENT,
        f"{what} has {len(examples)} examples: send at most {MAX_BATCH_SIZE} in a request",
    )


def _wrong_type(name: str, dtype: tf.DType) -> RequestError:
    return RequestError(
        INVALID_ARGUMENT, f"JSON Value of {name} is not of expected type: {dtype.name}"
    )

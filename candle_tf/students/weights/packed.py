"""Packed weights of a student: safetensors, one bit for each binary weight.

data = pack(student, spec, class_names=None, facts={"epochs": "8"})
spec, class_names, facts = describe(data, "weights.safetensors")
unpack(data, student, "weights.safetensors")

A binary kernel [h, w, in, out] is stored as its signs (uint8, 8 of them a byte, the kernel in C
order) and the mean magnitude of each output channel (float16 [out]); moving means and variances of
batch norm, which may be large, are float32, in format 1 float16; all other weights are float16.
Every name is `<layer>/<weight>`. The classifier is left out where there are no class names. The
file's metadata say which student it is of. safetensors holds arrays and text alone, so nothing in a
file can run.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import safetensors.numpy
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.files import parse_json
from candle_tf.students.layers.blocks import is_binary_conv
from candle_tf.students.weights.copying import (
    CLASSIFIER,
    check_finite,
    variables_of,
    weight_name,
)
from candle_tf.students.weights.spec import StudentSpec, parse_spec

FORMAT = "candle_tf student weights 2"
_READ = ("candle_tf student weights 1", FORMAT)
_ENTRY = "candle_tf"
_SPEC = ("name", "width", "stem_stride")
_SIGNS, _MAGNITUDE = ":signs", ":magnitude"
_STATISTICS = ("moving_mean", "moving_variance")
# The smallest normal number of float16. Magnitude 0 would make all signs of a channel +1.
_LEAST = 2.0**-14


def pack(
    student: tf.keras.Model,
    spec: StudentSpec,
    class_names: Sequence[str] | None = None,
    facts: Mapping[str, str] | None = None,
) -> bytes:
    """A student's weights as the bytes of a file.

    Args:
        student: with latent or binary kernels.
        spec: what it is.
        class_names: of its classifier, C of them; None leaves the classifier out.
        facts: what else the file is to say of itself.

    Raises:
        UserError: where a weight is not finite, or too large for float16.
    """
    arrays: dict[str, np.ndarray] = {}
    for layer in student.layers:
        if layer.name == CLASSIFIER and class_names is None:
            continue
        for variable in variables_of(layer):
            name = f"{layer.name}/{weight_name(variable)}"
            value = variable.numpy()
            if _is_binary_kernel(layer, variable):
                # As `larq.math.sign`: a weight of 0 is +1.
                arrays[name + _SIGNS] = np.packbits(value.reshape(-1) >= 0)
                magnitude = np.abs(value.astype(np.float64)).mean(axis=(0, 1, 2))
                arrays[name + _MAGNITUDE] = _as_float16(np.maximum(magnitude, _LEAST), name)
            elif _is_statistic(variable):
                check_finite(value, name)
                arrays[name] = value.astype(np.float32)
            else:
                arrays[name] = _as_float16(value, name)
    described = {
        "format": FORMAT,
        "student": asdict(spec),
        "class_names": None if class_names is None else list(class_names),
        "facts": dict(facts or {}),
    }
    # One entry, as the library writes several in any order, and a file is to be reproducible.
    return safetensors.numpy.save(arrays, {_ENTRY: json.dumps(described, sort_keys=True)})


def describe(data: bytes, origin: str) -> tuple[StudentSpec, list[str] | None, dict[str, str]]:
    """What a packed file says of itself.

    Returns:
        The student, the names of its classes where it has a classifier, and the other facts.

    Raises:
        UserError: where it is no such file.
    """
    _load(data, origin)
    size = int.from_bytes(data[:8], "little")
    try:
        described = parse_json(parse_json(data[8 : 8 + size])["__metadata__"][_ENTRY])
        if described["format"] not in _READ:
            raise ValueError(f"its format is {described['format']!r}, not {FORMAT!r}")
        spec = parse_spec(*(described["student"][name] for name in _SPEC))
        names, facts = described["class_names"], dict(described["facts"])
        if names is not None and not _are_texts(names):
            raise ValueError("its class names are no list of texts")
    except (KeyError, ValueError, TypeError) as error:
        raise _damage_error(origin, f"{type(error).__name__}: {error}") from error
    return spec, names, facts


def unpack(data: bytes, student: tf.keras.Model, origin: str) -> None:
    """Puts packed weights into a student.

    Latent weights are the signs times the stored magnitude, so that the network computes the very
    function that was stored, up to the rounding to float16.

    Args:
        data: of a whole file.
        student: of the architecture that `describe` gives, and, where the file has a classifier,
            as many classes; its own classifier stays where the file has none.
        origin: the file, for messages.

    Raises:
        UserError: where an array is missing, left over, of another shape or not finite.
    """
    arrays = _load(data, origin)
    values = []
    has_classifier = any(name.startswith(f"{CLASSIFIER}/") for name in arrays)
    for layer in student.layers:
        if layer.name == CLASSIFIER and not has_classifier:
            continue
        for variable in variables_of(layer):
            name = f"{layer.name}/{weight_name(variable)}"
            values.append((variable, _take(arrays, name, layer, variable, origin)))
    if arrays:
        raise _damage_error(origin, f"it has the unknown array {min(arrays)}")
    for variable, value in values:
        variable.assign(value)


def _take(
    arrays: dict[str, np.ndarray], name: str, layer: Any, variable: tf.Variable, origin: str
) -> np.ndarray:
    """One weight, float32, taken out of the arrays."""
    shape = tuple(variable.shape)
    if _is_statistic(variable) and getattr(arrays.get(name), "dtype", None) == "float32":
        return _array(arrays, name, shape, "float32", origin)
    if not _is_binary_kernel(layer, variable):
        return _array(arrays, name, shape, "float16", origin).astype(np.float32)
    size = int(np.prod(shape))
    packed = _array(arrays, name + _SIGNS, (-(-size // 8),), "uint8", origin)
    magnitude = _array(arrays, name + _MAGNITUDE, shape[-1:], "float16", origin)
    signs = np.unpackbits(packed)[:size].reshape(shape).astype(np.float32) * 2.0 - 1.0
    return signs * magnitude.astype(np.float32)


def _array(
    arrays: dict[str, np.ndarray], name: str, shape: tuple[int, ...], dtype: str, origin: str
) -> np.ndarray:
    value = arrays.pop(name, None)
    if value is None:
        raise _damage_error(origin, f"it misses {name}")
    if value.shape != shape or value.dtype != dtype:
        raise _damage_error(
            origin,
            f"{name} is {value.dtype} {list(value.shape)} and should be {dtype} {list(shape)}",
        )
    check_finite(value, f"{name} in {origin}")
    return value


def _load(data: bytes, origin: str) -> dict[str, np.ndarray]:
    try:
        return dict(safetensors.numpy.load(data))
    # Whatever the library raises is the file's damage: bytes that are no such file, a type that
    # NumPy has not.
    except Exception as error:
        raise _damage_error(origin, str(error)) from error


def _are_texts(values: Any) -> bool:
    return isinstance(values, list) and all(isinstance(value, str) for value in values)


def _damage_error(origin: str, reason: str) -> UserError:
    return UserError(
        f"{origin} does not hold the packed weights of a student, or is damaged ({reason}). Give "
        "an undamaged file of that kind."
    )


def _is_binary_kernel(layer: Any, variable: tf.Variable) -> bool:
    return is_binary_conv(layer) and variable is layer.kernel


def _is_statistic(variable: tf.Variable) -> bool:
    return weight_name(variable) in _STATISTICS


def _as_float16(value: np.ndarray, name: str) -> np.ndarray:
    check_finite(value, name)
    largest = float(np.abs(value).max(initial=0.0))
    if largest > np.finfo(np.float16).max:
        raise UserError(
            f"The weight {name} is as large as {largest:g}, and packed weights hold numbers up to "
            "65,504: the training diverged. Train with a lower learning rate."
        )
    return value.astype(np.float16)

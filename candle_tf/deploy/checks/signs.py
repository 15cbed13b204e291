"""Whether a converted file computes what the student computes, up to signs at their threshold.

agreement = check_signs(flatbuffer, student, pixels, "student.lce.tflite")
agreement.flipped                       # activations whose sign is not Keras's

An activation within rounding of its sign's threshold has one sign in Keras and may have the other
in the file, and its image has other outputs then. So outputs alone do not tell a wrong file from a
student with many such activations. The signs do: the student is computed in Keras with the signs
that the file came to, layer by layer. What is left then is rounding. Each of the file's signs is
that of Keras's activation unless that is all but at the threshold, and the outputs of every image
are equal to rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.deploy.checks.errors import ExportError
from candle_tf.deploy.checks.operators import same_signs
from candle_tf.deploy.tflite.flatbuffer import (
    BINARY_CONVOLUTION,
    CONVOLUTION,
    Operator,
    append_outputs,
    operators,
    unpack_signs,
)
from candle_tf.deploy.tflite.interpreters import Interpreter
from candle_tf.students.layers.blocks import binary_layers, is_binary_conv

# Distance from its threshold, relative to the largest activation of its layer, up to which an
# activation may have either sign. TFLite's mean over a large map is what rounds most.
THRESHOLD = 1e-3
# Of logits, relative to the largest one.
ROUNDING = 1e-3
# Of the signs of a layer whose activations are no layer's output: the share that may differ.
UNSEEN_SHARE = 1e-3
_BATCH_SIZE = 8


@dataclass(frozen=True)
class SignAgreement:
    """How far a file is from the student that gets the file's own signs.

    Attributes:
        images: number of images compared.
        signs: number of binary activations compared.
        flipped: number of those whose sign is not that of Keras's activation.
        farthest_flipped: largest distance of one of those from its threshold, relative to the
            largest activation of its layer.
        largest_difference: of a logit, relative to the largest one.
    """

    images: int
    signs: int
    flipped: int
    farthest_flipped: float
    largest_difference: float


@dataclass(frozen=True)
class _LayerSigns:
    """Keras's activations of one layer, and the file's signs of them.

    Attributes:
        name: of the binary convolution.
        found: the file's signs, `[N, H, W, C]`.
        expected: Keras's own.
        distances: of Keras's activations from the threshold, relative to the largest one; None
            where they are no layer's output.
    """

    name: str
    found: np.ndarray
    expected: np.ndarray
    distances: np.ndarray | None


def check_signs(
    flatbuffer: bytes,
    student: tf.keras.Model,
    pixels: np.ndarray,
    what: str,
    open_file: Callable[[bytes, str], Interpreter],
) -> SignAgreement:
    """Refuses a file that differs from the student by more than signs at their threshold.

    Args:
        flatbuffer: the content of the file.
        student: the Keras model it was converted from.
        pixels: uint8 `[N, H, W, 3]`, at least one image.
        what: how messages call the file.
        open_file: opens it in its runtime.

    Returns:
        The measured agreement.

    Raises:
        ExportError: naming the first layer whose kernel is not in the file, or whose activations
            have another sign than the file's by more than rounding; and where outputs differ by
            more than rounding though the signs are the same.
        UserError: for a damaged file.
    """
    sources = _sign_tensors(flatbuffer, student, what)
    tensors = list(dict.fromkeys(step.source for step in sources.values()))
    run = open_file(append_outputs(flatbuffer, tensors), what)
    channels = {layer.name: int(layer.input_shape[-1]) for layer in binary_layers(student)}
    batches = []
    for start in range(0, len(pixels), _BATCH_SIZE):
        batch = pixels[start : start + _BATCH_SIZE].astype(run.dtype)
        outputs = [run.invoke(batch[number : number + 1]) for number in range(len(batch))]
        logits, *maps = (np.concatenate(each) for each in zip(*outputs, strict=True))
        of_tensor = dict(zip(tensors, maps, strict=True))
        signs = {
            name: _as_signs(of_tensor[step.source], channels[name])
            for name, step in sources.items()
        }
        batches.append(_check_batch(student, batch, logits, signs, what))
    return SignAgreement(
        images=sum(batch.images for batch in batches),
        signs=sum(batch.signs for batch in batches),
        flipped=sum(batch.flipped for batch in batches),
        farthest_flipped=max(batch.farthest_flipped for batch in batches),
        largest_difference=max(batch.largest_difference for batch in batches),
    )


def _sign_tensors(flatbuffer: bytes, student: tf.keras.Model, what: str) -> dict[str, Operator]:
    """The convolution of the file that each binary layer has become, found by its kernel.

    A kernel's signs are never changed by conversion but for a whole channel's, where batch
    normalisation has a negative scale.
    """
    steps = [
        step
        for step in operators(flatbuffer, what)
        if step.name in (BINARY_CONVOLUTION, CONVOLUTION) and step.weights is not None
    ]
    found = {}
    for layer in binary_layers(student):
        kernel = layer.kernel.numpy()
        step = next((step for step in steps if same_signs(kernel, _kernel(step, kernel))), None)
        if step is None:
            raise ExportError(
                f"{what} has no convolution with the kernel of {layer.name}: the signs of that "
                "kernel are not those of the student."
            )
        found[layer.name] = step
        steps.remove(step)
    return found


def _kernel(step: Operator, kernel: np.ndarray) -> np.ndarray:
    """A convolution's kernel, `[out, height, width, in]`, unpacked where it is packed."""
    values = step.weights.values if step.weights else None
    if values is None:
        return np.zeros(0)
    packed = step.name == BINARY_CONVOLUTION and values.dtype == np.int32
    return unpack_signs(values, kernel.shape[2]) if packed else values


def _as_signs(activations: np.ndarray, channels: int) -> np.ndarray:
    if activations.dtype == np.int32:
        return unpack_signs(activations, channels)
    return np.where(activations >= 0, np.float32(1), np.float32(-1))


def _check_batch(
    student: tf.keras.Model,
    pixels: np.ndarray,
    logits: np.ndarray,
    signs: dict[str, np.ndarray],
    what: str,
) -> SignAgreement:
    expected, layers = _compute_with_signs(student, pixels.astype(np.float32), signs)
    flipped, farthest = 0, 0.0
    for layer in layers:
        differs = layer.found != layer.expected
        flipped += int(differs.sum())
        if layer.distances is None:
            _refuse_many(layer, differs, what)
        elif differs.any():
            distance = float(layer.distances[differs].max())
            farthest = max(farthest, distance)
            if not distance <= THRESHOLD:
                _refuse_signs(layer, int((differs & ~(layer.distances <= THRESHOLD)).sum()), what)
    largest = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    difference = float(np.abs(logits.astype(np.float64) - expected).max() / largest)
    # Written so that NaN is refused too.
    if not difference <= ROUNDING:
        raise ExportError(
            f"{what} does not compute what the student computes: from the same signs of all "
            f"activations come outputs that differ by {difference:.1e} of the largest one (at most "
            f"{ROUNDING:.0e}). What follows the last binary convolution is wrong."
        )
    count = sum(layer.found.size for layer in layers)
    return SignAgreement(len(pixels), count, flipped, farthest, difference)


def _refuse_signs(layer: _LayerSigns, wrong: int, what: str) -> None:
    raise ExportError(
        f"{what} does not compute what the student computes: {wrong} of {layer.found.size} "
        f"activations before {layer.name} have another sign in the file though they are farther "
        f"from the threshold than {THRESHOLD:.0e} of the largest one. A weight, scale or shift "
        "before that layer is wrong."
    )


def _refuse_many(layer: _LayerSigns, differs: np.ndarray, what: str) -> None:
    if differs.mean() > UNSEEN_SHARE:
        raise ExportError(
            f"{what} does not compute what the student computes: {int(differs.sum())} of "
            f"{differs.size} activations before {layer.name} have another sign in the file."
        )


def _compute_with_signs(
    student: tf.keras.Model, pixels: np.ndarray, signs: dict[str, np.ndarray]
) -> tuple[np.ndarray, list[_LayerSigns]]:
    """The student's logits where each binary convolution gets given signs.

    Args:
        student: a functional Keras model.
        pixels: float32 `[N, H, W, 3]`.
        signs: by name of the binary layer, float32 `[N, H, W, C]` of -1 and +1.

    Returns:
        float64 `[N, classes]`, and for each binary layer what Keras has in the place of its signs.
    """
    by_depth = student._nodes_by_depth
    nodes = [node for depth in sorted(by_depth, reverse=True) for node in by_depth[depth]]
    makers = {key: node for node in nodes for key in node.flat_output_ids}
    values: dict[str, Any] = {str(id(student.inputs[0])): tf.constant(pixels)}
    compared = []
    for node in nodes:
        if node.is_input:
            continue
        given = {key: [values[key]] * node.flat_input_ids.count(key) for key in node.flat_input_ids}
        if is_binary_conv(node.layer):
            key = node.flat_input_ids[0]
            found = signs[node.layer.name]
            compared.append(_layer_signs(node.layer, found, key, makers[key], values))
            given[key] = [tf.constant(found)]
            if _is_usual(node.layer):
                values[node.flat_output_ids[0]] = _convolve_exactly(node.layer, found)
                continue
        args, kwargs = node.map_arguments(given)
        if node.layer._call_spec.expects_training_arg:
            kwargs["training"] = False
        outputs = tf.nest.flatten(node.layer(*args, **kwargs))
        values.update(zip(node.flat_output_ids, outputs, strict=True))
    outputs = [values[str(id(tensor))] for tensor in student.outputs]
    logits = tf.nest.pack_sequence_as(student._nested_outputs, outputs)["logits"]
    return logits.numpy().astype(np.float64), compared


def _is_usual(layer: Any) -> bool:
    return (
        layer.data_format == "channels_last"
        and layer.padding in ("same", "valid")
        and layer.groups == 1
        and layer.dilation_rate == (1, 1)
        and layer.activation in (None, tf.keras.activations.linear)
    )


def _convolve_exactly(layer: Any, signs: np.ndarray) -> tf.Tensor:
    """A binary convolution by whole numbers, which float32 sums without rounding.

    Keras sums scaled values. On maps of one pixel most of a window is padding, which batch
    normalisation takes away again: what is left of 2,000 roundings can be 1/1000 of the logits.
    """
    kernel = layer.kernel_quantizer(tf.constant(layer.kernel.numpy())).numpy()
    scale = np.abs(kernel).max(axis=(0, 1, 2))
    x = signs
    if layer.padding == "same":
        rows = zip(signs.shape[1:3], layer.kernel_size, layer.strides, strict=True)
        totals = [max((-(-size // step) - 1) * step + side - size, 0) for size, side, step in rows]
        widths = [(0, 0), *((total // 2, total - total // 2) for total in totals), (0, 0)]
        x = np.pad(signs, widths, constant_values=layer.pad_values)
    sums = tf.nn.conv2d(x, np.sign(kernel), layer.strides, "VALID")
    y = sums * scale
    return tf.nn.bias_add(y, layer.bias) if layer.use_bias else y


def _layer_signs(
    layer: Any, found: np.ndarray, key: str, maker: Any, values: dict[str, Any]
) -> _LayerSigns:
    """What Keras has before a binary convolution: its input, or the input of the sign before it."""
    value = values[key].numpy()
    expected = np.where(value >= 0, np.float32(1), np.float32(-1))
    activations = value
    if getattr(layer, "input_quantizer", None) is None:
        # The sign is a layer of its own, or the last thing that another layer does.
        sources = maker.flat_input_ids
        activations = values[sources[0]].numpy() if len(sources) == 1 else value
    seen = activations.shape == value.shape and np.array_equal(
        np.where(activations >= 0, np.float32(1), np.float32(-1)), expected
    )
    distances = None
    if seen:
        magnitudes = np.abs(activations)
        largest = max(float(magnitudes.max()), float(np.finfo(np.float32).tiny))
        distances = magnitudes / largest
    return _LayerSigns(layer.name, found, expected, distances)

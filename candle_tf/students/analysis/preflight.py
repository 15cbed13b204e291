"""Whether a student will stay binary on the device, checked before it is trained.

refuse_unconvertible(student)           # UserError, naming the first layer and the reason
warn_of_float("mine", student)          # a warning where nothing of it is binary
conversion_problems(student)            # [("block01_conv", "its activations come from ..."), ...]

The rules are those by which the Larq Compute Engine's converter silently makes a float convolution
of a binary one. They are checked on the traced graph; nothing is converted.
"""

from typing import Any

import larq as lq
import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.errors import UserError
from candle_tf.students.analysis.inference_graph import (
    CONVOLUTION,
    KernelUse,
    constant_value,
    copied_tensor,
    kernel_uses,
)
from candle_tf.students.layers.blocks import is_binary_conv

_KERNEL_QUANTIZERS = ("kernel_quantizer", "depthwise_quantizer", "pointwise_quantizer")
# The converter's own two thresholds.
_SMALLEST_SCALE = 1.2e-7
_SCALE_TOLERANCE = 0.005


def refuse_unconvertible(student: tf.keras.Model) -> None:
    """Refuses a student with a binary layer that would be exported in float; logs warnings.

    Args:
        student: Keras model with a fixed input shape, built or trained.

    Raises:
        UserError: naming the layer and the reason.
    """
    for layer, warning in conversion_warnings(student):
        logging.warning("%s: %s.", layer, warning)
    problems = conversion_problems(student)
    if problems:
        layer, reason = problems[0]
        others = f" (and {len(problems) - 1} more layers)" if len(problems) > 1 else ""
        raise UserError(
            f"The converter would not keep layer {layer} of {student.name} binary: "
            f"{reason}{others}. Change the student before it is trained."
        )


def warn_of_float(name: str, student: tf.keras.Model) -> None:
    """Logs a warning for a student without any binary layer, but for those whose name says so.

    Args:
        name: under which it is registered; "float_..." is without binary layers on purpose.
        student: Keras model, built or trained.
    """
    binary = any(
        _is_one_bit(getattr(part, each, None))
        for part in student.submodules  # layers, also those of models inside
        for each in _KERNEL_QUANTIZERS
    )
    if not binary and not any("float" in each for each in (name, student.name)):
        logging.warning(
            "the student %s has no binary layer: its files are float. Where that is wanted, "
            "register it under a name with 'float' in it",
            name,
        )


def conversion_problems(student: tf.keras.Model) -> list[tuple[str, str]]:
    """Why which layers of a student will not run as binary convolutions.

    Args:
        student: Keras model with a fixed input shape [N, H, W, C].

    Returns:
        (layer name, reason) for each layer that quantizes its kernel or its activations to one bit
        and will not be converted to a binary convolution, or be converted to a wrong one; in order.
        Empty where there is none.
    """
    uses: dict[str, list[KernelUse]] = {layer.name: [] for layer in student.layers}
    for use in kernel_uses(student):
        uses[use.layer.name].append(use)
    found = [(layer.name, _problem(layer, uses[layer.name])) for layer in student.layers]
    return [(name, reason) for name, reason in found if reason is not None]


def conversion_warnings(student: tf.keras.Model) -> list[tuple[str, str]]:
    """(layer name, warning) of layers that convert, but at an unexpected cost."""
    return [
        (
            layer.name,
            "a PReLU without shared_axes=[1, 2] keeps a slope for each pixel: "
            f"{int(np.prod(layer.alpha.shape))} of them are exported",
        )
        for layer in student.layers
        if isinstance(layer, tf.keras.layers.PReLU) and max(layer.alpha.shape[:-1], default=1) > 1
    ]


def _problem(layer: Any, uses: list[KernelUse]) -> str | None:
    if not any(_is_one_bit(getattr(layer, name, None)) for name in _KERNEL_QUANTIZERS):
        return _float_kernel_problem(layer, uses)
    return (
        _layer_problem(layer)
        or next(filter(None, map(_use_problem, uses)), None)
        or _kernel_problem(layer)
    )


def _is_one_bit(quantizer: Any) -> bool:
    return getattr(quantizer, "precision", None) == 1 and not isinstance(
        quantizer, lq.quantizers.NoOp
    )


def _float_kernel_problem(layer: Any, uses: list[KernelUse]) -> str | None:
    """Why signs that are multiplied by a float kernel gain nothing."""
    signs = any(_is_sign(copied_tensor(use.activations)) for use in uses)
    if signs or _is_one_bit(getattr(layer, "input_quantizer", None)):
        return "its activations are quantized to one bit, but its kernel is not; both are needed"
    return None


def _layer_problem(layer: Any) -> str | None:
    if not is_binary_conv(layer) or isinstance(layer, tf.keras.layers.Conv2DTranspose):
        kind = type(layer).__name__
        remedy = "a 1x1 convolution on a 1x1 map" if "Dense" in kind else "a plain convolution"
        return f"there is no binary operator for {kind}; use {remedy}, or leave it in float"
    if layer.compute_dtype != "float32":
        return f"it computes in {layer.compute_dtype}; build the student in float32"
    if layer.groups > 1:
        return f"groups={layer.groups} converts to what the engine cannot run; use groups=1"
    if layer.data_format != "channels_last":
        return f"its data format is {layer.data_format}; only channels_last is converted"
    return None


def _use_problem(use: KernelUse) -> str | None:
    """An operation between the sign and the convolution that keeps it from being converted."""
    activations = copied_tensor(use.activations)
    dilations = (
        use.operation.get_attr("dilations")[1:3] if use.operation.type == CONVOLUTION else ()
    )
    if activations.op.type == "SpaceToBatchND":  # how TensorFlow writes a dilated convolution
        dilations = constant_value(activations.op.inputs[1])
        activations = copied_tensor(activations.op.inputs[0])
    if activations.op.type in ("Pad", "PadV2", "MirrorPad"):
        problem = _padding_problem(activations.op, use, dilations)
        if problem is not None:
            return problem
        activations = copied_tensor(activations.op.inputs[0])
    if _is_sign(activations):
        return _small_map_problem(use)
    if use.operation.type != CONVOLUTION:
        return f"it runs as {use.operation.type}, which has no binary operator"
    return (
        f"its activations come from {activations.op.type} ({_layer_of(activations.op)}), not "
        "directly from a sign that the converter knows (larq.math.sign, or "
        "tf.where(x >= 0, 1., -1.))"
    )


def _small_map_problem(use: KernelUse) -> str | None:
    """The engine's fast kernels pad with 0 wrongly where the map is smaller than the kernel."""
    operation = use.operation
    if operation.type != CONVOLUTION or operation.get_attr("padding") != b"SAME":
        return None
    sizes, sides = operation.inputs[0].shape[1:3], operation.inputs[1].shape[:2]
    if all(size >= side for size, side in zip(sizes, sides, strict=True)):
        return None
    return (
        f"it pads a map of {sizes[0]} x {sizes[1]} with 0 for a kernel of {sides[0]} x {sides[1]}, "
        "which the engine's fast kernels compute wrongly; give it pad_values of 1"
    )


def _is_sign(tensor: Any) -> bool:
    """Whether a tensor is written in one of the ways the converter reads as a sign.

    They are sign(sign(x) + c), and a choice between the scalars 1 and -1. The converter does not
    check c, and reads ternary signs, sign(sign(x + t) + sign(x - t)), as binary ones.
    """
    operation = tensor.op
    if operation.type == "Sign":
        inner = copied_tensor(operation.inputs[0]).op
        if inner.type != "AddV2":
            return False
        signs = [each for each in inner.inputs if copied_tensor(each).op.type == "Sign"]
        shifts = [constant_value(each) for each in inner.inputs]
        return len(signs) == 1 and any(c is not None and np.all((c > 0) & (c < 1)) for c in shifts)
    if operation.type in ("Select", "SelectV2"):
        values = [constant_value(each) for each in operation.inputs[1:]]
        # Constants of the activations' own shape are not recognized.
        return all(value is not None and value.size == 1 for value in values) and {
            float(value.item()) for value in values if value is not None
        } == {-1.0, 1.0}
    return False


def _padding_problem(pad: Any, use: KernelUse, dilations: Any) -> str | None:
    value = 0.0 if pad.type != "PadV2" else constant_value(pad.inputs[2])
    if pad.type == "MirrorPad" or value != 1.0:
        where = _layer_of(pad)
        what = "mirrored values" if pad.type == "MirrorPad" else f"{value}"
        return (
            f"its activations are padded with {what} ({where}) after the sign; give the layer "
            'padding="same" with pad_values of 1 or 0, or padding="valid"'
        )
    given = constant_value(pad.inputs[1])
    expected = _same_padding(pad.inputs[0].shape, use.operation, dilations)
    if given is None or not np.array_equal(given, expected):
        # The converter reads some of these as "same" padding, and shifts the map.
        return (
            f'it is padded with 1 otherwise than by padding="same" ({_layer_of(pad)}); the engine '
            "has only that padding"
        )
    return None


def _same_padding(shape: Any, convolution: Any, dilations: Any) -> list[list[int]]:
    """TensorFlow's "same" padding of [N, H, W, C] as rows of (before, after)."""
    kernel = convolution.inputs[1].shape[:2]
    strides = convolution.get_attr("strides")[1:3]
    rows = [[0, 0]]
    for size, side, stride, dilation in zip(shape[1:3], kernel, strides, dilations, strict=True):
        reach = (side - 1) * dilation + 1
        total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        rows.append([total // 2, total - total // 2])
    return [*rows, [0, 0]]


def _kernel_problem(layer: Any) -> str | None:
    """Values that the converter does not read as one scale per output channel and signs."""
    if not getattr(layer.kernel_quantizer, "is_exact_sign", True):
        return None  # annealed: its kernel is a sign only at the end of the training
    kernel = np.abs(layer.kernel_quantizer(tf.constant(layer.get_weights()[0])).numpy())
    kernel = kernel.reshape(-1, kernel.shape[-1])
    scales = kernel.mean(axis=0)
    dead = np.flatnonzero(~(scales > _SMALLEST_SCALE))
    if len(dead):
        return (
            f"output channel {dead[0]} of its kernel is dead (scale {scales[dead[0]]:.1e}); use a "
            "quantizer whose scale stays off zero"
        )
    if np.any(np.abs(kernel / scales - 1) > _SCALE_TOLERANCE):
        return "its quantized kernel has more than two values in an output channel"
    return None


def _layer_of(operation: Any) -> str:
    """The name of an operation's layer: the operation's name without the model's."""
    return operation.name.partition("/")[2].rpartition("/")[0] or operation.name

"""Weights of the official PyTorch code of ReActNet-A and BNext as a start for our networks.

load_pytorch(student, "reactnet_a", read_state_dict(data, "model.pth.tar"), "model.pth.tar")

PyTorch pads symmetrically where the stride is 2 and with 0 around the signs, TensorFlow at the
lower right and ours with +1: the network is a start for fine-tuning, and not an equal one. The
pixels that those networks were trained on, normalized by ImageNet's mean and deviation, are made
of ours (-1..1) by the stem: its kernel is divided by the deviation, and the rest goes into the mean
of its batch normalization, exactly but for the border.
"""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.students.architectures.reactnet import BLOCKS
from candle_tf.students.weights.copying import check_finite

_MEAN = np.array([0.485, 0.456, 0.406])
_STDDEV = np.array([0.229, 0.224, 0.225])
# (layer of ours, weight of it) -> (name in the file, how its array becomes ours)
_Rule = tuple[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]]
_Rules = dict[tuple[str, str], _Rule]


def load_pytorch(
    student: tf.keras.Model, name: str, state: dict[str, np.ndarray], origin: str
) -> None:
    """Puts a PyTorch state dict into a student.

    Args:
        student: of width 1 and as many classes as the file has (`class_count`).
        name: "reactnet_a" or "bnext_t", "_s", "_m", "_l".
        state: names, with or without "module." before them, and arrays.
        origin: the file, for messages.

    Raises:
        UserError: for another student, and where an array is missing, unknown, of another size or
            not finite.
    """
    state = {key.removeprefix("module."): value for key, value in state.items()}
    if name == "reactnet_a":
        rules = _reactnet_rules()
    elif name.startswith("bnext_"):
        rules = _bnext_rules(student)
    else:
        raise UserError(
            f"{origin}: PyTorch weights are read for reactnet_a and bnext_*, not for {name}."
        )
    unused = {key for key in state if key.split(".")[-1] in ("temperature", "num_batches_tracked")}
    unused |= set(_unused_slopes(state, rules) if name != "reactnet_a" else ())
    wanted = {key for key, _ in rules.values()}
    for kind, names in (
        ("misses", wanted - set(state)),
        ("has the unknown", set(state) - wanted - unused),
    ):
        if names:
            raise _unfit(origin, name, f"it {kind} {min(names)!r}")
    values = []
    for (layer, weight), (key, convert) in rules.items():
        variable = getattr(student.get_layer(layer), weight)
        if state[key].size != np.prod(variable.shape):
            raise _unfit(
                origin,
                name,
                f"{key!r} has the shape {list(state[key].shape)} where the student's has "
                f"{list(variable.shape)}",
            )
        check_finite(state[key], f"{key} in {origin}")
        values.append((variable, convert(state[key].astype(np.float32), tuple(variable.shape))))
    for variable, value in values:
        variable.assign(value)
    _normalize_in_stem(student)


def class_count(state: dict[str, np.ndarray], origin: str) -> int:
    """The number of classes of a file's classifier.

    Raises:
        UserError: where it has none.
    """
    bias = state.get("fc.bias", state.get("module.fc.bias"))
    if bias is None or bias.ndim != 1:
        raise UserError(f"{origin} holds no classifier 'fc': give an official, whole checkpoint.")
    return len(bias)


def _unfit(origin: str, name: str, reason: str) -> UserError:
    return UserError(
        f"{origin} does not hold the weights of the official {name}: {reason}. Give those weights."
    )


def _kernel(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """[out, in, h, w], also flattened, to [h, w, in, out]."""
    height, width, inputs, outputs = shape
    return value.reshape(outputs, inputs, height, width).transpose(2, 3, 1, 0)


def _same(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    return value.reshape(shape)


def _transpose(value: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:  # noqa: ARG001
    return value.T


def _batch_norm(layer: str, prefix: str) -> _Rules:
    names = {
        "gamma": "weight",
        "beta": "bias",
        "moving_mean": "running_mean",
        "moving_variance": "running_var",
    }
    return {(layer, ours): (f"{prefix}.{theirs}", _same) for ours, theirs in names.items()}


def _ends() -> _Rules:
    return {
        ("stem_conv", "kernel"): ("feature.0.conv1.weight", _kernel),
        **_batch_norm("stem_bn", "feature.0.bn1"),
        ("logits", "kernel"): ("fc.weight", _transpose),
        ("logits", "bias"): ("fc.bias", _same),
    }


def _rprelu(layer: str, prefix: str, first: str, slope: str, last: str) -> _Rules:
    return {
        (layer, "shift_in"): (f"{prefix}.{first}.bias", _same),
        (layer, "slope"): (f"{prefix}.{slope}.weight", _same),
        (layer, "shift_out"): (f"{prefix}.{last}.bias", _same),
    }


def _reactnet_rules() -> _Rules:
    rules = _ends()
    channels = 32
    for number, (filters, _) in enumerate(BLOCKS, start=1):
        ours, theirs = f"block{number:02d}", f"feature.{number}"
        rules |= {
            (f"{ours}_spatial_shift", "offset"): (f"{theirs}.move11.bias", _same),
            (f"{ours}_spatial_conv", "kernel"): (f"{theirs}.binary_3x3.weights", _kernel),
            (f"{ours}_point_shift", "offset"): (f"{theirs}.move21.bias", _same),
            **_batch_norm(f"{ours}_spatial_bn", f"{theirs}.bn1"),
            **_rprelu(f"{ours}_spatial_rprelu", theirs, "move12", "prelu1", "move13"),
            **_rprelu(f"{ours}_point_rprelu", theirs, "move22", "prelu2", "move23"),
        }
        branches = {"point": ("binary_pw", "bn2")}
        if filters != channels:
            branches = {
                "point_left": ("binary_pw_down1", "bn2_1"),
                "point_right": ("binary_pw_down2", "bn2_2"),
            }
        for branch, (conv, norm) in branches.items():
            rules[f"{ours}_{branch}_conv", "kernel"] = (f"{theirs}.{conv}.weights", _kernel)
            rules |= _batch_norm(f"{ours}_{branch}_bn", f"{theirs}.{norm}")
        channels = filters
    return rules


def _bnext_rules(student: tf.keras.Model) -> _Rules:
    rules = _ends() | {("head_prelu", "alpha"): ("prelu.weight", _same)}
    names = {layer.name for layer in student.layers}
    units = sorted(name.removesuffix("_conv") for name in names if name.startswith("block")
                   and name.endswith("_conv"))  # fmt: skip
    of_kind = {
        "spatial": "Attention",
        "point": "FFN",
        "point_left": "FFN_1",
        "point_right": "FFN_2",
    }
    for ours in units:
        block, _, kind = ours.partition("_")
        theirs = f"feature.{int(block.removeprefix('block'))}.{of_kind[kind]}"
        rules |= {
            (f"{ours}_shift", "offset"): (f"{theirs}.move.bias", _same),
            (f"{ours}_conv", "kernel"): (f"{theirs}.binary_conv.weight", _kernel),
            (f"{ours}_prelu", "alpha"): (f"{theirs}.activation2.weight", _same),
            (f"{ours}_mix", "share"): (f"{theirs}.scale", _same),
            **_batch_norm(f"{ours}_bn", f"{theirs}.norm1"),
            **_batch_norm(f"{ours}_gated_bn", f"{theirs}.norm2"),
        }
        for layer, place in (("gate_squeeze", 1), ("gate_excite", 3)):
            rules[f"{ours}_{layer}", "kernel"] = (f"{theirs}.se.se.{place}.weight", _kernel)
            rules[f"{ours}_{layer}", "bias"] = (f"{theirs}.se.se.{place}.bias", _same)
        if f"{ours}_shortcut_prelu" in names:
            key = f"{theirs}.activation1.weight"
            rules[f"{ours}_shortcut_prelu", "alpha"] = (key, _same)
    return rules


def _unused_slopes(state: dict[str, np.ndarray], rules: _Rules) -> list[str]:
    """Slopes that the authors' BNext owns and never applies: of the stem and units without them."""
    wanted = {key for key, _ in rules.values()}
    return [
        key
        for key in state
        if key not in wanted
        and (key == "feature.0.prelu.weight" or key.endswith(".activation1.weight"))
    ]


def _normalize_in_stem(student: tf.keras.Model) -> None:
    """From pixels in -1..1 to (pixel / 255 - mean) / deviation, inside the stem.

    With u = 2 pixel / 255 - 1 that is u / (2 deviation) + (1/2 - mean) / deviation.
    """
    conv, norm = student.get_layer("stem_conv"), student.get_layer("stem_bn")
    kernel = conv.kernel.numpy().astype(np.float64)
    constant = np.einsum("hwio,i->o", kernel, (0.5 - _MEAN) / _STDDEV)
    conv.kernel.assign(kernel / (2.0 * _STDDEV)[:, np.newaxis])
    norm.moving_mean.assign(norm.moving_mean.numpy() - constant)

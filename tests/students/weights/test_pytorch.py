"""State dicts of the official PyTorch networks: each array lands where its name says.

Blocks are computed a second time in NumPy, channels first and by the names in the file. Where the
official code pads with 0, ours pads with +1, so NumPy does here; strides of 2 are left out, where
the two pad on other sides.
"""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.students.architectures.bnext import bnext_t
from candle_tf.students.architectures.reactnet import reactnet_a
from candle_tf.students.weights.pytorch import class_count, load_pytorch

CLASSES = 7


class RandomState:
    """A state dict of random arrays, by kind."""

    def __init__(self):
        self.rng = np.random.default_rng(0)
        self.state = {}

    def add(self, name, *shape, scale=0.5):
        self.state[name] = (scale * self.rng.normal(size=shape)).astype(np.float32)

    def norm(self, name, channels):
        self.add(f"{name}.weight", channels)
        self.add(f"{name}.bias", channels)
        self.add(f"{name}.running_mean", channels)
        self.state[f"{name}.running_var"] = self.rng.uniform(0.5, 2, channels).astype(np.float32)
        self.state[f"{name}.num_batches_tracked"] = np.array(3, np.int64)


def channels_of(width):
    return [int(c * width) for c in (32, 64, 128, 128, 256, 256, *[512] * 6, 1024, 1024)]


def random_reactnet_state(width=0.25):
    random, channels = RandomState(), channels_of(width)
    random.add("feature.0.conv1.weight", channels[0], 3, 3, 3)
    random.norm("feature.0.bn1", channels[0])
    for i in range(1, 14):
        inner, outer = channels[i - 1], channels[i]
        for name, size in (("move11", inner), ("move12", inner), ("move13", inner),
                           ("move21", inner), ("move22", outer), ("move23", outer)):  # fmt: skip
            random.add(f"feature.{i}.{name}.bias", 1, size, 1, 1)
        random.add(f"feature.{i}.prelu1.weight", inner)
        random.add(f"feature.{i}.prelu2.weight", outer)
        random.add(f"feature.{i}.binary_3x3.weights", inner * inner * 9, 1)
        random.norm(f"feature.{i}.bn1", inner)
        pointwise = [("binary_pw", "bn2")]
        if inner != outer:
            pointwise = [("binary_pw_down1", "bn2_1"), ("binary_pw_down2", "bn2_2")]
        for conv, norm in pointwise:
            random.add(f"feature.{i}.{conv}.weights", inner * inner, 1)
            random.norm(f"feature.{i}.{norm}", inner)
    random.add("fc.weight", CLASSES, channels[-1])
    random.add("fc.bias", CLASSES)
    return random.state


def random_bnext_state(width=0.25):
    random, channels = RandomState(), channels_of(width)
    random.add("feature.0.conv1.weight", channels[0], 3, 3, 3)
    random.norm("feature.0.bn1", channels[0])
    random.add("feature.0.prelu.weight", channels[0])
    for i in range(1, 14):
        inner, outer = channels[i - 1], channels[i]
        units = ["Attention", "FFN"] if inner == outer else ["Attention", "FFN_1", "FFN_2"]
        for unit in units:
            name, side = f"feature.{i}.{unit}", 3 if unit == "Attention" else 1
            random.add(f"{name}.move.bias", 1, inner, 1, 1)
            random.add(f"{name}.binary_conv.weight", inner, inner, side, side)
            for buffer in ("binary_conv", "binary_activation"):
                random.add(f"{name}.{buffer}.temperature", 1)
            random.norm(f"{name}.norm1", inner)
            random.norm(f"{name}.norm2", inner)
            random.add(f"{name}.activation1.weight", inner)
            random.add(f"{name}.activation2.weight", inner)
            random.add(f"{name}.scale", 1, inner, 1, 1)
            random.add(f"{name}.se.se.1.weight", inner // 8, inner, 1, 1)
            random.add(f"{name}.se.se.1.bias", inner // 8)
            random.add(f"{name}.se.se.3.weight", inner, inner // 8, 1, 1)
            random.add(f"{name}.se.se.3.bias", inner)
    random.add("prelu.weight", channels[-1])
    random.add("fc.weight", CLASSES, channels[-1])
    random.add("fc.bias", CLASSES)
    return random.state


def conv(x, kernel):
    """[N, I, H, W] of signs, padded with +1, by [O, I, k, k]."""
    side = kernel.shape[-1]
    pad = side // 2
    x = np.pad(x, [(0, 0), (0, 0), (pad, pad), (pad, pad)], constant_values=1.0)
    windows = np.lib.stride_tricks.sliding_window_view(x, (side, side), axis=(2, 3))
    return np.einsum("nihwyx,oiyx->nohw", windows, kernel)


def column(values):
    return values.reshape(1, -1, 1, 1)


def sign(x):
    return np.where(x >= 0, 1.0, -1.0)


def prelu(x, slope):
    return np.maximum(x, 0) + column(slope) * np.minimum(x, 0)


def norm(x, state, name):
    mean, var = column(state[f"{name}.running_mean"]), column(state[f"{name}.running_var"])
    scaled = (x - mean) / np.sqrt(var + 1e-5) * column(state[f"{name}.weight"])
    return scaled + column(state[f"{name}.bias"])


def reactnet_block(x, state, name):
    def shift(y, move):
        return y + state[f"{name}.{move}.bias"]

    def binary(y, layer, side):
        channels = y.shape[1]
        kernel = state[f"{name}.{layer}.weights"].reshape(channels, channels, side, side)
        scale = np.abs(kernel).mean(axis=(1, 2, 3))
        return conv(sign(y), sign(kernel)) * column(scale)

    y = x + norm(binary(shift(x, "move11"), "binary_3x3", 3), state, f"{name}.bn1")
    y = shift(prelu(shift(y, "move12"), state[f"{name}.prelu1.weight"]), "move13")
    shifted = shift(y, "move21")
    if f"{name}.binary_pw.weights" in state:
        y = y + norm(binary(shifted, "binary_pw", 1), state, f"{name}.bn2")
    else:
        left = y + norm(binary(shifted, "binary_pw_down1", 1), state, f"{name}.bn2_1")
        right = y + norm(binary(shifted, "binary_pw_down2", 1), state, f"{name}.bn2_2")
        y = np.concatenate([left, right], axis=1)
    return shift(prelu(shift(y, "move22"), state[f"{name}.prelu2.weight"]), "move23")


def bnext_unit(x, state, name, attention):
    residual = prelu(x, state[f"{name}.activation1.weight"]) if attention else x
    kernel = sign(state[f"{name}.binary_conv.weight"])
    y = norm(conv(sign(x + state[f"{name}.move.bias"]), kernel), state, f"{name}.norm1")
    y = prelu(y, state[f"{name}.activation2.weight"])
    scale = state[f"{name}.scale"]
    mean = (scale * x + (1 - scale) * y).mean(axis=(2, 3))
    hidden = mean @ state[f"{name}.se.se.1.weight"][:, :, 0, 0].T + state[f"{name}.se.se.1.bias"]
    gate = np.maximum(hidden, 0) @ state[f"{name}.se.se.3.weight"][:, :, 0, 0].T
    gate = 1 / (1 + np.exp(-(gate + state[f"{name}.se.se.3.bias"])))
    y = gate[:, :, np.newaxis, np.newaxis] * y
    if attention:
        y = y * residual
    return norm(y, state, f"{name}.norm2") + residual


def bnext_block(x, state, name, attention):
    y = bnext_unit(x, state, f"{name}.Attention", attention)
    if f"{name}.FFN.scale" in state:
        return bnext_unit(y, state, f"{name}.FFN", False)
    units = [bnext_unit(y, state, f"{name}.FFN_{i}", False) for i in (1, 2)]
    return np.concatenate(units, axis=1)


def part(student, start, end):
    """From the output of one layer to that of another, channels first."""
    model = tf.keras.Model(student.get_layer(start).output, student.get_layer(end).output)

    def run(x):
        return model(x.transpose(0, 2, 3, 1), training=False).numpy().transpose(0, 3, 1, 2)

    return run


@pytest.fixture(scope="module")
def reactnet():
    state = random_reactnet_state()
    student = reactnet_a((32, 32, 3), CLASSES, width=0.25)
    load_pytorch(student, "reactnet_a", {f"module.{k}": v for k, v in state.items()}, "test")
    return student, state


@pytest.fixture(scope="module")
def bnext():
    state = random_bnext_state()
    student = bnext_t((64, 64, 3), CLASSES, width=0.25)
    load_pytorch(student, "bnext_t", state, "test")
    for layer in student.layers:
        if hasattr(layer, "kernel_quantizer"):
            layer.kernel_quantizer.set_exact_sign()
    return student, state


# One that doubles the width (at stride 1), and ones that do not.
@pytest.mark.parametrize("number", [1, 3, 8, 13])
def test_a_block_of_reactnet_is_the_one_of_the_file(reactnet, number):
    student, state = reactnet
    start = "stem_bn" if number == 1 else f"block{number - 1:02d}_point_rprelu"
    run = part(student, start, f"block{number:02d}_point_rprelu")
    x = np.random.default_rng(number).normal(size=student.get_layer(start).output_shape[1:])
    x = x.transpose(2, 0, 1)[np.newaxis].astype(np.float32)
    expected = reactnet_block(x.astype(np.float64), state, f"feature.{number}")
    np.testing.assert_allclose(run(x), expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("number", [1, 3, 8])
def test_a_block_of_bnext_is_the_one_of_the_file(bnext, number):
    student, state = bnext
    layers = [layer.name for layer in student.layers]
    ends = [name for name in layers if name.startswith(f"block{number + 1:02d}_spatial_shift")]
    start = student.get_layer(f"block{number:02d}_spatial_shift")
    model = tf.keras.Model(start.input, student.get_layer(ends[0]).input)
    x = np.random.default_rng(number).normal(size=start.output_shape[1:])[np.newaxis]
    found = model(x.astype(np.float32), training=False).numpy().transpose(0, 3, 1, 2)
    attention = number % 2 == 0
    expected = bnext_block(x.transpose(0, 3, 1, 2), state, f"feature.{number}", attention)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("which", ["reactnet", "bnext"])
def test_the_stem_normalizes_pixels_as_the_official_code_does(which, request):
    student, state = request.getfixturevalue(which)
    pixels = np.random.default_rng(2).uniform(0, 255, (1, *student.input_shape[1:]))
    found = tf.keras.Model(student.input, student.get_layer("stem_bn").output)(
        pixels.astype(np.float32), training=False
    ).numpy()
    x = (pixels / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    kernel = state["feature.0.conv1.weight"]
    windows = np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(1, 2))
    # TensorFlow pads at the lower right alone: window i begins at pixel 2 i.
    y = np.einsum("nhwiyx,oiyx->nohw", windows[:, ::2, ::2], kernel)
    expected = norm(y, state, "feature.0.bn1").transpose(0, 2, 3, 1)
    inside = found[:, : expected.shape[1] - 1, : expected.shape[2] - 1]
    np.testing.assert_allclose(inside, expected[:, :-1, :-1], rtol=1e-3, atol=1e-3)


def test_the_classifier_is_transposed(reactnet):
    student, state = reactnet
    kernel, bias = student.get_layer("logits").get_weights()
    np.testing.assert_array_equal(kernel, state["fc.weight"].T)
    np.testing.assert_array_equal(bias, state["fc.bias"])
    assert class_count(state, "test") == CLASSES


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("feature.3.move12.bias"), "misses 'feature.3.move12.bias'"),
        (lambda s: s.update({"layer4.weight": np.zeros(3)}), "unknown 'layer4.weight'"),
        (lambda s: s.update({"fc.bias": np.zeros(9, np.float32)}), "'fc.bias' has the shape .9."),
        (lambda s: s["feature.0.bn1.weight"].fill(np.nan), "feature.0.bn1.weight in test.*finite"),
    ],
)
def test_what_does_not_fit_is_refused_and_nothing_is_changed(change, message):
    state = random_reactnet_state()
    change(state)
    student = reactnet_a((32, 32, 3), CLASSES, width=0.25)
    before = student.get_weights()
    with pytest.raises(UserError, match=message):
        load_pytorch(student, "reactnet_a", state, "test")
    for ours, theirs in zip(before, student.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_other_students_and_files_without_a_classifier_are_refused():
    student = reactnet_a((32, 32, 3), CLASSES, width=0.25)
    with pytest.raises(UserError, match="not for quicknet"):
        load_pytorch(student, "quicknet", {}, "test")
    with pytest.raises(UserError, match="no classifier"):
        class_count({"a": np.zeros(3)}, "test")

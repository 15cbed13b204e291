"""The preflight's verdict on each pattern, and beside it the converter's own.

All patterns are branches of one model, each with a number of output channels of its own, by which
its convolution is found again in the converted file.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.deploy.tflite.flatbuffer import BINARY_CONVOLUTION, operators
from candle_tf.errors import UserError
from candle_tf.students.analysis.preflight import (
    conversion_problems,
    conversion_warnings,
    refuse_unconvertible,
    warn_of_float,
)
from candle_tf.students.architectures.reactnet import reactnet_a
from candle_tf.students.layers.blocks import batch_norm, binary_conv, binary_layers
from candle_tf.students.layers.quantizers import ApproxSign, ScaledSign
from tests.deploy.test_binarize import randomize, untrained_student

CHANNELS = 32
# The dilated and the strided patterns need a map that is larger than their reach.
SIZE = 8

Branch = Callable[[tf.Tensor, int, str], tf.Tensor]


def conv(kernel_size: int = 3, **options) -> Branch:
    """A binary convolution as in the engine's documentation, but for the options."""

    def build(x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
        settings = {
            "padding": "same",
            "pad_values": 1.0,
            "input_quantizer": "ste_sign",
            "kernel_quantizer": "ste_sign",
            "use_bias": False,
            **options,
        }
        return lq.layers.QuantConv2D(filters, kernel_size, name=name, **settings)(x)

    return build


def after(*steps: Callable[[tf.Tensor], tf.Tensor], **options) -> Branch:
    """Steps on the activations, then a convolution that does not quantize them again."""

    def build(x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
        for step in steps:
            x = step(x)
        return conv(**{"input_quantizer": None, **options})(x, filters, name)

    return build


def then(step: Callable[[tf.Tensor], tf.Tensor]) -> Branch:
    return lambda x, filters, name: step(conv()(x, filters, name))


@tf.keras.utils.register_keras_serializable("test_preflight")
class OwnSign(tf.keras.layers.Layer):
    """A sign with a gradient of its own, times a constant."""

    precision = 1

    def __init__(self, scale: float = 1.0, **options) -> None:
        super().__init__(**options)
        self.scale = scale

    def call(self, inputs):
        signs = own_sign(inputs)
        return signs if self.scale == 1.0 else self.scale * signs

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}


class Claim(tf.keras.layers.Layer):
    """Claims one bit and gives three values."""

    precision = 1

    def call(self, inputs):
        return tf.round(tf.tanh(10 * inputs))


@tf.custom_gradient
def own_sign(x):
    return lq.math.sign(x), lambda dy: 0.5 * dy


def straight_through(x):
    clipped = tf.clip_by_value(x, -1.0, 1.0)
    return clipped + tf.stop_gradient(lq.math.sign(x) - clipped)


def multiply_by_gate(y):
    weights = tf.keras.layers.Dense(y.shape[-1], activation="sigmoid")(
        tf.keras.layers.GlobalAveragePooling2D()(y)
    )
    return y * tf.keras.layers.Reshape((1, 1, y.shape[-1]))(weights)


def chain_over_pool(x: tf.Tensor, filters: int, name: str) -> tf.Tensor:
    y = binary_conv(ApproxSign()(x), CHANNELS, 3, 1, f"{name}_before")
    y = tf.keras.layers.MaxPooling2D(2)(batch_norm(y, f"{name}_bn"))
    return binary_conv(ApproxSign()(y), filters, 3, 1, name)


sign = ApproxSign(name="shared_sign")

BINARY: dict[str, Branch] = {
    "ste_sign": conv(),
    "approx_sign": conv(input_quantizer="approx_sign"),
    "swish_sign": conv(input_quantizer="swish_sign"),
    "own_gradient": after(OwnSign()),
    "where_of_scalars": after(lambda x: tf.where(x >= 0, 1.0, -1.0)),
    "where_reversed": after(lambda x: tf.where(x < 0, -1.0, 1.0)),
    "separate_sign_layer": after(sign),
    "magnitude_aware_kernel": conv(kernel_quantizer="magnitude_aware_sign"),
    "scaled_sign_kernel": conv(kernel_quantizer=ScaledSign()),
    "own_scaled_kernel": conv(kernel_quantizer=OwnSign(0.3)),
    "pad_values_0": conv(pad_values=0.0),
    "valid": conv(padding="valid", pad_values=0.0),
    "stride_2": conv(strides=2),
    "dilation": conv(dilation_rate=2),
    "dilation_pad_values_0": conv(dilation_rate=2, pad_values=0.0),
    "1x1": conv(1),
    "5x5": conv(5),
    "bias": conv(use_bias=True),
    "learned_scale": then(lambda y: batch_norm(y, "learned_scale_bn")),
    "gate": then(multiply_by_gate),
    "dropout": after(sign, tf.keras.layers.Dropout(0.5)),
    "maxpool_before_the_sign": chain_over_pool,
}

FLOAT: dict[str, Branch] = {
    "weights_only": conv(input_quantizer=None),
    "activations_only": conv(kernel_quantizer=None),
    "activations_only_separate": lambda x, filters, name: tf.keras.layers.Conv2D(
        filters, 3, padding="same", name=name
    )(sign(x)),
    "sign_minus_clip_plus_clip": after(straight_through),
    "tf_sign": after(tf.sign),
    "where_of_ones_like": after(lambda x: tf.where(x >= 0, tf.ones_like(x), -tf.ones_like(x))),
    "twice_cast_less_1": after(lambda x: 2.0 * tf.cast(x >= 0, tf.float32) - 1.0),
    "scaled_activations": after(sign, lambda x: 0.5 * x),
    "pad_values_-1": conv(pad_values=-1.0),
    "zero_padding": after(sign, tf.keras.layers.ZeroPadding2D(1), padding="valid", pad_values=0.0),
    "maxpool": after(sign, tf.keras.layers.MaxPooling2D(2)),
    "upsampling": after(sign, tf.keras.layers.UpSampling2D(2)),
    "concat": after(lambda x: tf.concat([sign(x), sign(-x)], axis=-1)),
    "sum_of_signs": after(lambda x: sign(x) + sign(-x)),
    "depthwise": lambda x, filters, name: lq.layers.QuantDepthwiseConv2D(
        3, input_quantizer="ste_sign", depthwise_quantizer="ste_sign", name=name
    )(x[..., :filters]),
    "separable": lambda x, filters, name: lq.layers.QuantSeparableConv2D(
        filters,
        3,
        input_quantizer="ste_sign",
        depthwise_quantizer="ste_sign",
        pointwise_quantizer="ste_sign",
        name=name,
    )(x),
    "transposed": lambda x, filters, name: lq.layers.QuantConv2DTranspose(
        filters, 3, input_quantizer="ste_sign", kernel_quantizer="ste_sign", name=name
    )(x),
    "dense": lambda x, filters, name: lq.layers.QuantDense(
        filters, input_quantizer="ste_sign", kernel_quantizer="ste_sign", name=name
    )(tf.keras.layers.GlobalAveragePooling2D()(x)),
    "dead_channel": conv(kernel_quantizer="magnitude_aware_sign"),
}
# These become binary convolutions that compute something else.
WRONG: dict[str, Branch] = {
    "ste_tern": conv(input_quantizer="ste_tern"),
    "symmetric_padding_at_stride_2": after(
        sign,
        lambda x: tf.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], constant_values=1.0),
        padding="valid",
        pad_values=0.0,
        strides=2,
    ),
}
SAID = {
    "activations_only": "kernel is not",
    "activations_only_separate": "kernel is not",
    "weights_only": "Placeholder",
    "tf_sign": "Sign",
    "pad_values_-1": "padded with -1.0",
    "zero_padding": "padded with 0.0",
    "maxpool": "MaxPool (max_pooling2d",
    "upsampling": "up_sampling2d",
    "concat": "ConcatV2",
    "depthwise": "no binary operator for QuantDepthwiseConv2D",
    "dense": "1x1 convolution on a 1x1 map",
    "dead_channel": "output channel 2 of its kernel is dead",
    "symmetric_padding_at_stride_2": 'otherwise than by padding="same"',
}


@dataclass(frozen=True)
class Verdicts:
    """On a model of many branches, by branch: the preflight's, the converter's, and parity."""

    problems: dict[str, str]
    binary: set[str]
    agrees: dict[str, bool]


def layer_name(pattern: str) -> str:
    return f"conv_{pattern.replace('-', 'minus_')}"


@functools.cache
def verdicts(kind: str) -> Verdicts:
    branches = {"binary": BINARY, "float": FLOAT, "wrong": WRONG}[kind]
    pixels = tf.keras.Input((SIZE, SIZE, CHANNELS), name="pixels")
    # Below CHANNELS, as a depthwise convolution keeps the channels it gets.
    filters = {name: number for number, name in enumerate(branches, start=4)}
    assert max(filters.values()) < CHANNELS
    outputs = []
    for name, branch in branches.items():
        y = branch(pixels, filters[name], layer_name(name))
        outputs.append(tf.keras.layers.GlobalAveragePooling2D()(y) if len(y.shape) == 4 else y)
    student = tf.keras.Model(pixels, {"logits": tf.concat(outputs, axis=-1)}, name=kind)
    randomize(student)
    if kind == "float":
        kernel = student.get_layer(layer_name("dead_channel")).kernel
        kernel.assign(kernel.numpy() * (np.arange(kernel.shape[-1]) != 2))

    flatbuffer = convert(student, tf.float32)
    found = {
        step.weights.shape[0]
        for step in operators(flatbuffer)
        if step.name == BINARY_CONVOLUTION and step.weights
    }
    images = np.random.default_rng(0).normal(0, 1, (4, SIZE, SIZE, CHANNELS)).astype(np.float32)
    expected = student(images, training=False)["logits"].numpy()
    differences = np.abs(run(flatbuffer, images, kernel="default") - expected).max(axis=0)
    ends = np.cumsum([*filters.values()])
    return Verdicts(
        problems=dict(conversion_problems(student)),
        binary={name for name, number in filters.items() if number in found},
        agrees={
            name: bool(differences[end - filters[name] : end].max() < 1e-4 * np.abs(expected).max())
            for name, end in zip(filters, ends, strict=True)
        },
    )


@pytest.mark.parametrize("pattern", BINARY)
def test_what_stays_binary_passes(pattern):
    found = verdicts("binary")
    assert pattern in found.binary
    assert found.agrees[pattern]
    assert layer_name(pattern) not in found.problems


def test_nothing_else_is_reported_among_what_stays_binary():
    assert verdicts("binary").problems == {}


@pytest.mark.parametrize("pattern", FLOAT)
def test_what_becomes_float_is_caught(pattern):
    found = verdicts("float")
    assert pattern not in found.binary
    assert found.agrees[pattern]  # which is why nobody notices
    assert SAID.get(pattern, "") in found.problems[layer_name(pattern)]


def test_nothing_else_is_reported_among_what_becomes_float():
    found = verdicts("float")
    assert set(found.problems) == {layer_name(pattern) for pattern in FLOAT}
    assert found.binary == set()


@pytest.mark.parametrize("pattern", WRONG)
def test_what_computes_something_else_is_caught(pattern):
    found = verdicts("wrong")
    assert pattern in found.binary
    assert not found.agrees[pattern]
    assert SAID.get(pattern, "") in found.problems[layer_name(pattern)]


def one_layer(branch: Branch, channels: int = CHANNELS) -> tf.keras.Model:
    pixels = tf.keras.Input((SIZE, SIZE, channels), name="pixels")
    return tf.keras.Model(pixels, {"logits": branch(pixels, 8, "layer")}, name="one")


def test_groups_are_caught_which_the_engine_cannot_run():
    student = one_layer(conv(groups=2), channels=64)
    assert "groups=2" in dict(conversion_problems(student))["layer"]
    flatbuffer = convert(student, tf.float32)
    assert BINARY_CONVOLUTION in {step.name for step in operators(flatbuffer)}
    with pytest.raises((UserError, RuntimeError)):
        run(flatbuffer, np.ones((1, SIZE, SIZE, 64), np.float32), kernel="default")


def test_mixed_precision_is_caught():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        student = untrained_student()
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    problems = dict(conversion_problems(student))
    assert set(problems) == {layer.name for layer in binary_layers(student)}
    assert all("float16" in reason for reason in problems.values())


def test_a_dead_channel_passes_where_the_scale_has_a_floor():
    student = one_layer(conv(kernel_quantizer=ScaledSign()))
    kernel = student.get_layer("layer").kernel
    kernel.assign(kernel.numpy() * (np.arange(8) != 2))
    assert conversion_problems(student) == []


def test_kernels_of_more_than_two_values_are_caught():
    student = one_layer(conv(kernel_quantizer=Claim()))
    assert "more than two values" in dict(conversion_problems(student))["layer"]


def test_signs_of_a_float_convolution_before_are_no_matter():
    stem = tf.keras.layers.Conv2D(CHANNELS, 3, padding="same", name="stem")
    student = one_layer(after(stem, sign))
    assert conversion_problems(student) == []


def test_refusal_names_student_layer_and_reason():
    student = one_layer(after(sign, tf.keras.layers.MaxPooling2D(2)))
    with pytest.raises(UserError, match=r"layer layer of one binary: .*MaxPool"):
        refuse_unconvertible(student)


def test_a_student_without_a_binary_layer_is_a_warning_but_where_its_name_says_so(caplog):
    pixels = tf.keras.Input([8, 8, 3])
    x = tf.keras.layers.Conv2D(4, 3)(pixels)
    without = tf.keras.Model(pixels, x)
    inner = tf.keras.Sequential([one_layer(conv())], name="inner")
    with caplog.at_level("WARNING"):
        warn_of_float("float_net", without)
        warn_of_float("net", tf.keras.Model(pixels, x, name="net_in_float"))
        warn_of_float("binary_net", tf.keras.Sequential([inner]))
        warn_of_float("net", without)
    told = [each.split(". ")[0] for each in caplog.messages if "no binary layer" in each]
    assert told == ["the student net has no binary layer: its files are float"]


def test_a_slope_per_pixel_is_a_warning_and_no_refusal(caplog):
    pixels = tf.keras.Input((SIZE, SIZE, CHANNELS))
    wide = tf.keras.layers.PReLU(name="per_pixel")(pixels)
    fine = tf.keras.layers.PReLU(shared_axes=[1, 2], name="per_channel")(wide)
    student = tf.keras.Model(pixels, {"logits": conv()(fine, 8, "layer")})
    ((layer, warning),) = conversion_warnings(student)
    assert layer == "per_pixel"
    assert str(SIZE * SIZE * CHANNELS) in warning
    with caplog.at_level("WARNING"):
        refuse_unconvertible(student)
    assert "per_pixel" in caplog.text


def test_reactnet_passes_on_an_odd_size():
    student = reactnet_a((45, 45, 3), classes=5, width=0.25)
    assert len(binary_layers(student)) == 31
    refuse_unconvertible(student)


@pytest.mark.parametrize("pad_values", [0.0, 1.0])
def test_zeros_around_a_map_smaller_than_the_kernel_are_caught_as_the_engine_is_wrong(pad_values):
    pixels = tf.keras.Input((2, 2, CHANNELS), name="pixels")
    x = conv(pad_values=pad_values)(pixels, 32, "small_map")
    features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
    student = tf.keras.Model(pixels, {"features": features, "logits": features})
    inputs = np.random.default_rng(0).normal(size=(16, 2, 2, CHANNELS)).astype(np.float32)
    expected = student(inputs)["logits"].numpy()
    converted = run(convert(student, tf.float32), inputs, kernel="indirect")
    agrees = bool(np.allclose(converted, expected, atol=1e-3))
    assert agrees == (pad_values == 1.0)
    assert [name for name, _ in conversion_problems(student)] == ([] if agrees else ["small_map"])

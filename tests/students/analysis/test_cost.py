import functools

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.tflite.converter import convert
from candle_tf.students.analysis.cost import LayerCost, Summary, summarize
from candle_tf.students.architectures.reactnet import reactnet_a
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.layers.blocks import batch_norm, binary_conv
from candle_tf.students.layers.quantizers import ApproxSign
from tests.deploy.test_binarize import randomize, untrained_student


@functools.cache
def published_summary() -> Summary:
    return summarize(reactnet_a((224, 224, 3), classes=1000))


def layer_of(summary: Summary, name: str) -> LayerCost:
    return next(layer for layer in summary.layers if layer.name == name)


def test_reactnet_is_counted_as_published():
    summary = published_summary()
    assert round(summary.binary_parameters / 1e6, 2) == 28.25
    assert round(summary.float_parameters / 1e6, 2) == 1.09
    assert round(summary.binary_multiply_adds / 1e6) == 4817
    assert round(summary.float_multiply_adds / 1e6, 1) == 11.9
    assert round(summary.ops / 1e6, 1) == 87.1
    assert round(summary.bytes / 1e6, 1) == 7.9


def test_every_weight_is_counted_once():
    student = untrained_student()
    summary = summarize(student)
    counted = summary.binary_parameters + summary.float_parameters + summary.frozen_parameters
    assert counted == student.count_params()
    # Mean and variance of the stem's normalisation and of those behind the five convolutions.
    assert summary.frozen_parameters == 2 * (16 + 16 + 16 + 32 - 16 + 16 + 16)


def test_maps_and_what_they_see():
    summary = summarize(untrained_student())
    shapes = {layer.name: layer.output for layer in summary.layers}
    assert shapes["pixels"] == (32, 32, 3)
    assert shapes["stem_conv"] == (16, 16, 16)
    assert shapes["block02_spatial_conv"] == (8, 8, 16)
    assert shapes["block02_concat"] == (8, 8, 32)
    assert shapes["features"] == (32,)
    sees = {layer.name: layer.receptive_field for layer in summary.layers}
    # 3; two further pixels of stride 2 on each side for each of the two 3x3 convolutions.
    assert (sees["pixels"], sees["stem_conv"], sees["stem_bn"]) == (1, 3, 3)
    assert sees["block01_spatial_conv"] == sees["block01_point_conv"] == 3 + 2 * 2
    assert sees["block02_pool"] == 7 + 2
    assert sees["block02_point_rprelu"] == 7 + 2 * 2
    assert sees["features"] is None
    assert sees["logits"] is None


def test_multiply_adds_of_all_kinds_of_convolution():
    pixels = tf.keras.Input((12, 12, 4))
    x = tf.keras.layers.Conv2D(6, 3, strides=2, groups=2, name="grouped")(pixels)
    x = tf.keras.layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    x = tf.keras.layers.SeparableConv2D(8, 3, padding="same", name="separable")(x)
    x = tf.keras.layers.Conv2DTranspose(5, 2, strides=2, name="transposed")(x)
    x = tf.keras.layers.Conv2D(4, 3, dilation_rate=2, name="dilated")(x)
    x = tf.keras.layers.GlobalAveragePooling2D()(x)
    x = tf.keras.layers.Dense(7, name="dense")(x)
    summary = summarize(tf.keras.Model(pixels, {"logits": x}))
    assert {
        layer.name: layer.float_multiply_adds
        for layer in summary.layers
        if layer.float_multiply_adds
    } == {
        "grouped": 5 * 5 * 6 * 3 * 3 * 2,
        "depthwise": 5 * 5 * 6 * 3 * 3,
        "separable": 5 * 5 * (6 * 3 * 3 + 6 * 8),
        "transposed": 5 * 5 * 8 * 2 * 2 * 5,
        "dilated": 6 * 6 * 5 * 3 * 3 * 4,
        "dense": 4 * 7,
    }
    assert summary.ops == summary.float_multiply_adds


def test_layers_within_layers_are_counted():
    class Gate(tf.keras.layers.Layer):
        def __init__(self):
            super().__init__(name="gate")
            self.inner = tf.keras.layers.Conv2D(8, 3, padding="same")

        def call(self, inputs):
            return inputs * tf.sigmoid(self.inner(inputs))

    pixels = tf.keras.Input((6, 6, 8))
    summary = summarize(tf.keras.Model(pixels, {"logits": Gate()(pixels)}))
    gate = layer_of(summary, "gate")
    assert gate.float_parameters == 3 * 3 * 8 * 8 + 8
    assert gate.float_multiply_adds == 6 * 6 * 3 * 3 * 8 * 8


def two_layers(pool: bool) -> tf.keras.Model:
    pixels = tf.keras.Input((8, 8, 3), name="pixels")
    x = tf.keras.layers.Conv2D(40, 3, padding="same", name="stem")(pixels)
    x = ApproxSign(name="sign")(x)
    if pool:
        x = tf.keras.layers.MaxPooling2D(2, strides=1, padding="same", name="pool")(x)
    x = batch_norm(binary_conv(x, 16, 3, 1, name="binary"), "bn")
    return tf.keras.Model(pixels, {"logits": tf.keras.layers.GlobalAveragePooling2D()(x)})


def test_binary_layer_is_packed_into_words():
    layer = layer_of(summarize(two_layers(pool=False)), "binary")
    assert layer.converts is True
    assert layer.binary_parameters == 3 * 3 * 40 * 16
    assert layer.binary_multiply_adds == 8 * 8 * 3 * 3 * 40 * 16
    assert layer.ops == layer.binary_multiply_adds / 64
    # 40 channels are two words of 32 bits; the rest is multiplier, bias and the operator.
    constants = 3 * 3 * 16 * 2 * 4 + 2 * 16 * 4
    assert constants < layer.bytes < constants + 800


def test_binary_layer_that_will_not_convert_costs_what_a_float_one_does():
    summary = summarize(two_layers(pool=True))
    layer = layer_of(summary, "binary")
    assert layer.converts is False
    assert "MaxPool" in str(layer.problem)
    assert summary.problems == [("binary", layer.problem)]
    assert layer.binary_multiply_adds == 0
    assert layer.ops == layer.float_multiply_adds == 8 * 8 * 3 * 3 * 40 * 16
    assert layer.bytes > 4 * 3 * 3 * 40 * 16
    assert layer.binary_parameters == summary.binary_parameters == 0
    assert layer.float_parameters == 3 * 3 * 40 * 16
    assert layer_of(summary, "stem").converts is None


@pytest.mark.parametrize("pool", [False, True])
def test_predicted_constants_are_in_the_file(pool):
    student = randomize(two_layers(pool))
    # A file this small is mostly its constant size.
    assert abs(summarize(student).bytes - len(convert(student))) < 2000


@pytest.mark.parametrize(
    ("name", "width", "size"),
    [
        ("reactnet_a", 0.25, 32),
        ("reactnet_a", 0.5, 64),
        ("quicknet_small", 0.25, 32),
        ("real_to_binary", 0.25, 32),
    ],
)
def test_predicted_size_is_the_converted_files_within_3_percent(name, width, size):
    student = build_student(name, (size, size, 3), classes=20, width=width, stem_stride=1)
    # Fresh shifts are all zero: the converter would leave them out.
    randomize(student)
    assert summarize(student).bytes == pytest.approx(len(convert(student)), rel=0.03)


def test_totals_are_the_sums_of_the_layers():
    summary = published_summary()
    assert summary.ops == pytest.approx(
        summary.binary_multiply_adds / 64 + summary.float_multiply_adds
    )
    assert summary.input_shape == (224, 224, 3)
    kernels = np.sum([layer.binary_parameters for layer in summary.layers if layer.converts])
    assert summary.binary_parameters == kernels

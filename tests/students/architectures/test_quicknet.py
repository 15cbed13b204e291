import functools

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.operators import check_binary
from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.errors import UserError
from candle_tf.students.architectures.quicknet import BlurKernel, _block, _transition
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.layers.blocks import binary_layers
from tests.deploy.test_binarize import logits_of, photographs, randomize
from tests.students.architectures.test_resnet18 import (
    check_binary_inputs,
    check_training_lowers_the_loss,
    norm_by_hand,
)
from tests.students.layers.test_blocks import _conv_by_hand

# Name: published parameters, binary convolutions, maps of the four sections at 224 pixels.
PUBLISHED = {
    "quicknet_small": (12_655_688, 16, [(56, 32), (28, 64), (14, 256), (7, 512)]),
    "quicknet": (13_234_088, 16, [(56, 64), (28, 128), (14, 256), (7, 512)]),
    "quicknet_large": (23_342_248, 32, [(56, 64), (28, 128), (14, 256), (7, 512)]),
}
PER_SECTION = {
    "quicknet_small": (4, 4, 4, 4),
    "quicknet": (4, 4, 4, 4),
    "quicknet_large": (6, 8, 12, 6),
}


@functools.cache
def _published_model(name: str) -> tf.keras.Model:
    return build_student(name, (224, 224, 3), classes=1000)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_are_the_published_ones(name):
    model = _published_model(name)
    # larq-zoo counts a batch normalisation as a scale and a shift per channel, however trained.
    norms = [x for x in model.layers if isinstance(x, tf.keras.layers.BatchNormalization)]
    folded = sum((len(norm.weights) - 2) * norm.input_shape[-1] for norm in norms)
    assert model.count_params() - folded == PUBLISHED[name][0]


@pytest.mark.parametrize("name", PUBLISHED)
def test_plan(name):
    model = _published_model(name)
    _, convolutions, maps = PUBLISHED[name]
    layers = binary_layers(model)
    expected = [shape for shape, count in zip(maps, PER_SECTION[name], strict=True)
                for _ in range(count)]  # fmt: skip
    assert len(layers) == convolutions
    assert [(x.output_shape[1], x.output_shape[-1]) for x in layers] == expected
    assert {x.kernel.shape[:2] for x in layers} == {(3, 3)}
    assert model.output["features"].shape[-1] == 512


def test_only_stem_transitions_and_classifier_are_in_float():
    model = _published_model("quicknet_small")
    binary = {layer.name for layer in binary_layers(model)}
    kinds = tf.keras.layers.Conv2D | tf.keras.layers.DepthwiseConv2D | tf.keras.layers.Dense
    floats = [x.name for x in model.layers if isinstance(x, kinds) and x.name not in binary]
    transitions = [f"transition{n}_{part}" for n in (1, 2, 3) for part in ("blur", "conv")]
    assert floats == ["stem_conv", "stem_depthwise", "stem_pointwise", *transitions, "logits"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_inner_convolutions_are_binary_in_weights_and_activations(name):
    model = build_student(name, (45, 45, 3), classes=5, width=0.25)
    layers = check_binary_inputs(randomize(model), 45)
    for layer in layers:
        kernel = layer.kernel_quantizer(tf.convert_to_tensor(layer.kernel)).numpy()
        np.testing.assert_array_equal(kernel, np.where(layer.kernel >= 0, 1, -1))
        assert layer.pad_values == 1.0
        assert layer.kernel_constraint.clip_value == layer.kernel_quantizer.clip_value == 1.25


@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize(("width", "size"), [(0.25, 32), (0.5, 45), (1.0, 64)])
def test_widths_and_sizes(width, size, stem_stride):
    model = build_student(
        "quicknet_small", (size, size, 3), 5, width=width, stem_stride=stem_stride
    )
    side = -(-size // (2 * stem_stride))
    for number, channels in zip((4, 8, 12, 16), (32, 64, 256, 512), strict=True):
        shape = model.get_layer(f"block{number:02d}_add").output_shape[1:]
        assert shape == (side, side, width * channels)
        side //= 2
    assert model.output["logits"].shape.as_list() == [None, 5]


def test_every_section_begins_with_a_transition_even_where_rounding_makes_widths_equal():
    model = build_student("quicknet_small", (32, 32, 3), 5, width=0.125)
    channels = [layer.output_shape[-1] for layer in binary_layers(model)]
    sides = [layer.output_shape[1] for layer in binary_layers(model)]
    assert channels == [8] * 8 + [32] * 4 + [64] * 4
    assert sides == [8] * 4 + [4] * 4 + [2] * 4 + [1] * 4


@pytest.mark.parametrize(("stem_stride", "least"), [(2, 29), (1, 15)])
def test_images_that_vanish_are_refused_with_the_least_size(stem_stride, least):
    shape = (least, 64, 3)
    model = build_student("quicknet", shape, 5, width=0.25, stem_stride=stem_stride)
    assert model.get_layer("block16_add").output_shape[1] == 1
    message = rf"--image_size={least - 1} .*--stem_stride={stem_stride}: give at least {least}"
    with pytest.raises(UserError, match=message):
        build_student("quicknet", (64, least - 1, 3), 5, width=0.25, stem_stride=stem_stride)


def test_another_stem_stride_is_refused():
    with pytest.raises(UserError, match=r"--stem_stride=4 .*give 2"):
        build_student("quicknet", (64, 64, 3), 5, stem_stride=4)


def test_blur_keeps_constants_and_is_not_trained():
    kernel = BlurKernel()((3, 3, 5, 1)).numpy()
    np.testing.assert_array_equal(kernel[..., 3, 0] * 16, [[1, 2, 1], [2, 4, 2], [1, 2, 1]])
    model = build_student("quicknet_small", (32, 32, 3), 5, width=0.25)
    trained = {variable.name for variable in model.trainable_variables}
    assert not [name for name in trained if "blur" in name]
    np.testing.assert_array_equal(model.get_layer("transition1_blur").get_weights()[0][..., :5, :],
                                  kernel)  # fmt: skip


@pytest.mark.parametrize("size", [6, 7])
def test_a_block_equals_its_numpy_writing(size):
    inputs = tf.keras.Input((size, size, 8))
    model = randomize(tf.keras.Model(inputs, _block(inputs, "block")), seed=3)
    x = np.random.default_rng(4).normal(size=(2, size, size, 8)).astype(np.float32)
    kernel = np.where(model.get_layer("block_conv").kernel.numpy() >= 0, 1.0, -1.0)
    convolved = _conv_by_hand(np.where(x >= 0, 1.0, -1.0), kernel, 1)
    expected = norm_by_hand(np.maximum(convolved, 0), model.get_layer("block_bn"), 1e-5) + x
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-4)


def _blurred_by_hand(x: np.ndarray) -> np.ndarray:
    """Zero-padded depthwise (1, 2, 1) x (1, 2, 1) / 16 with stride 2, TensorFlow's geometry."""
    for axis in (1, 2):
        size = x.shape[axis]
        before = (2 * (-(-size // 2) - 1) + 3 - size) // 2
        widths = [(0, 0)] * 4
        widths[axis] = (before, 2)
        padded = np.pad(x, widths)
        parts = [
            np.take(padded, np.arange(start, start + size, 2), axis=axis) for start in range(3)
        ]
        x = (parts[0] + 2 * parts[1] + parts[2]) / 4
    return x


@pytest.mark.parametrize("size", [6, 7])
def test_a_transition_equals_its_numpy_writing(size):
    inputs = tf.keras.Input((size, size, 8))
    model = tf.keras.Model(inputs, _transition(inputs, 16, "down"))
    blur = model.get_layer("down_blur").get_weights()
    randomize(model, seed=3).get_layer("down_blur").set_weights(blur)
    x = np.random.default_rng(4).normal(size=(2, size, size, 8)).astype(np.float32)
    y = np.maximum(x, 0).astype(np.float64)
    y = np.maximum(y[:, 1:], y[:, :-1])
    y = np.maximum(y[:, :, 1:], y[:, :, :-1])
    y = _blurred_by_hand(y) @ model.get_layer("down_conv").kernel.numpy()[0, 0]
    expected = norm_by_hand(y, model.get_layer("down_bn"), 1e-5)
    assert expected.shape == (2, size // 2, size // 2, 16)
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-4)


def test_the_converted_student_is_binary_and_agrees():
    student = randomize(build_student("quicknet_small", (32, 32, 3), 10, width=0.25, stem_stride=1))
    flatbuffer = convert(student)
    assert check_binary(flatbuffer, student)["LceBconv2d"] == 16
    check_agreement(logits_of(student), run(flatbuffer, photographs()), "quicknet_small.tflite")


def test_training_lowers_the_loss():
    check_training_lowers_the_loss(
        lambda: build_student("quicknet_small", (32, 32, 3), 10, width=0.25, stem_stride=1)
    )

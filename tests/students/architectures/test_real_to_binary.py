import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.operators import check_binary
from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.students.architectures.real_to_binary import _block, _gate, real_to_binary
from tests.deploy.test_binarize import logits_of, photographs, randomize
from tests.students.architectures.test_resnet18 import (
    check_binary_inputs,
    check_training_lowers_the_loss,
    conv3x3_by_hand,
    norm_by_hand,
)


def test_parameters_are_the_published_ones():
    assert real_to_binary((224, 224, 3), classes=1000).count_params() == 11_995_624


def test_inner_convolutions_are_binary_in_weights_and_activations():
    model = randomize(real_to_binary((45, 45, 3), classes=5, width=0.25))
    for layer in check_binary_inputs(model, 45):
        kernel = layer.kernel_quantizer(tf.convert_to_tensor(layer.kernel)).numpy()
        np.testing.assert_array_equal(kernel, np.where(layer.kernel >= 0, 1, -1))
        assert layer.kernel_constraint.clip_value == 1.0


def _gate_by_hand(x: np.ndarray, model: tf.keras.Model) -> np.ndarray:
    reduce, expand = (
        model.get_layer(f"block_gate_{part}").kernel.numpy().astype(np.float64)
        for part in ("reduce", "expand")
    )
    hidden = np.maximum(x.mean(axis=(1, 2)) @ reduce, 0)
    return 1 / (1 + np.exp(-hidden @ expand))[:, None, None]


def test_a_gate_equals_its_numpy_writing():
    inputs = tf.keras.Input((5, 6, 32))
    model = randomize(tf.keras.Model(inputs, _gate(inputs, 24, "block")))
    assert model.get_layer("block_gate_reduce").units == 32 // 8
    # A mean off zero, so that the hidden values and hence the gates differ from channel to channel.
    x = np.random.default_rng(1).normal(0.5, 3, (2, 5, 6, 32)).astype(np.float32)
    expected = _gate_by_hand(x, model)
    assert np.ptp(expected) > 0.2
    np.testing.assert_allclose(model(x), expected, rtol=1e-4)


def test_a_gate_of_few_channels_has_one_hidden_value():
    inputs = tf.keras.Input((2, 2, 4))
    model = tf.keras.Model(inputs, _gate(inputs, 8, "block"))
    assert model.get_layer("block_gate_reduce").units == 1


@pytest.mark.parametrize("size", [2, 6, 7])
@pytest.mark.parametrize(("filters", "stride"), [(16, 1), (32, 2)])
def test_a_block_equals_its_numpy_writing(filters, stride, size):
    inputs = tf.keras.Input((size, size, 16))
    model = randomize(tf.keras.Model(inputs, _block(inputs, filters, stride, "block")), seed=3)
    x = np.random.default_rng(4).normal(size=(2, size, size, 16)).astype(np.float32)
    normal = norm_by_hand(x, model.get_layer("block_bn"), 1e-3)
    kernel = np.where(model.get_layer("block_conv").kernel.numpy() >= 0, 1.0, -1.0)
    y = conv3x3_by_hand(np.where(normal >= 0, 1.0, -1.0), kernel, stride)
    # The gate's input is the real values, before the sign.
    y = y * _gate_by_hand(normal, model)
    slopes = model.get_layer("block_prelu").alpha.numpy()
    assert slopes.shape == (1, 1, filters)
    added = x
    if stride == 2:
        added = tf.keras.Model(inputs, model.get_layer("block_shortcut_bn").output)(x).numpy()
    expected = np.where(y > 0, y, slopes * y) + added
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-4)


def test_the_converted_student_is_binary_and_agrees():
    student = randomize(real_to_binary((32, 32, 3), 10, width=0.25, stem_stride=1))
    flatbuffer = convert(student)
    assert check_binary(flatbuffer, student)["LceBconv2d"] == 16
    check_agreement(logits_of(student), run(flatbuffer, photographs()), "real_to_binary.tflite")


def test_training_lowers_the_loss():
    check_training_lowers_the_loss(
        lambda: real_to_binary((32, 32, 3), 10, width=0.25, stem_stride=1)
    )

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.operators import check_binary
from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.students.architectures.birealnet import _block, birealnet18
from tests.deploy.test_binarize import logits_of, photographs, randomize
from tests.students.architectures.test_resnet18 import (
    check_binary_inputs,
    check_training_lowers_the_loss,
    conv3x3_by_hand,
    norm_by_hand,
)


def test_parameters_are_the_published_ones():
    assert birealnet18((224, 224, 3), classes=1000).count_params() == 11_699_112


def test_inner_convolutions_are_binary_in_weights_and_activations():
    model = randomize(birealnet18((45, 45, 3), classes=5, width=0.25))
    for layer in check_binary_inputs(model, 45):
        kernel = layer.kernel_quantizer(tf.convert_to_tensor(layer.kernel)).numpy()
        assert {len(np.unique(channel)) for channel in np.moveaxis(kernel, -1, 0)} == {2}
        assert layer.kernel_constraint.clip_value == 1.0


@pytest.mark.parametrize("size", [2, 6, 7])
@pytest.mark.parametrize(("filters", "stride"), [(8, 1), (16, 2)])
def test_a_block_equals_its_numpy_writing(filters, stride, size):
    inputs = tf.keras.Input((size, size, 8))
    model = randomize(tf.keras.Model(inputs, _block(inputs, filters, stride, "block")), seed=3)
    x = np.random.default_rng(4).normal(size=(2, size, size, 8)).astype(np.float32)
    latent = model.get_layer("block_conv").kernel.numpy().astype(np.float64)
    kernel = np.where(latent >= 0, 1, -1) * np.abs(latent).mean(axis=(0, 1, 2))
    y = conv3x3_by_hand(np.where(x >= 0, 1.0, -1.0), kernel, stride)
    added = x
    if stride == 2:
        added = tf.keras.Model(inputs, model.get_layer("block_shortcut_bn").output)(x).numpy()
    expected = norm_by_hand(y, model.get_layer("block_bn"), 1e-3) + added
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-4)


def test_the_converted_student_is_binary_and_agrees():
    student = randomize(birealnet18((32, 32, 3), 10, width=0.25, stem_stride=1))
    flatbuffer = convert(student)
    counts = check_binary(flatbuffer, student)
    assert counts["LceBconv2d"] == 16
    # Padding with 0 costs no further quantization: one for each sign.
    assert counts["LceQuantize"] == 16
    check_agreement(logits_of(student), run(flatbuffer, photographs()), "birealnet18.tflite")


def test_training_lowers_the_loss():
    check_training_lowers_the_loss(lambda: birealnet18((32, 32, 3), 10, width=0.25, stem_stride=1))

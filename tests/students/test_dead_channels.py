"""Channels that are the same for every input have no scale, and convert without rounding."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.errors import ExportError
from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.dead_channels import silence_dead_channels
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import batch_norm
from candle_tf.students.layers.quantizers import ApproxSign, ScaledSign, SteSign
from tools.student_table import random_images, randomize, reestimate_batch_norms

CHANNELS = 4


def network(kernel_quantizer, has_relu: bool) -> tf.keras.Model:
    pixels = tf.keras.Input((6, 6, 8))
    x = BinaryConv2D(
        CHANNELS, 3, padding="same", use_bias=False, kernel_quantizer=kernel_quantizer, name="conv"
    )(ApproxSign()(pixels))
    x = tf.keras.layers.ReLU()(x) if has_relu else x
    return tf.keras.Model(pixels, batch_norm(x, "norm"))


def set_norm(model: tf.keras.Model, variance) -> tuple[np.ndarray, np.ndarray]:
    """Sets other values than a new layer's; gives the scale and the shift."""
    rng = np.random.default_rng(1)
    gamma, beta, mean = rng.uniform(0.5, 2, (3, CHANNELS)).astype(np.float32)
    model.get_layer("norm").set_weights([gamma, beta, mean, np.float32(variance)])
    return gamma, beta


@pytest.mark.parametrize("has_relu", [True, False])
def test_channels_of_almost_no_variance_become_their_shift(has_relu):
    model = network(SteSign(), has_relu)
    gamma, beta = set_norm(model, [0.0, 0.9e-3, 1.1e-3, 30.0])
    inputs = np.random.default_rng(2).normal(size=(5, 6, 6, 8)).astype(np.float32)
    before = model(inputs).numpy()
    assert silence_dead_channels(model) == 2
    np.testing.assert_array_equal(model.get_layer("norm").gamma, [0, 0, *gamma[2:]])
    after = model(inputs).numpy()
    np.testing.assert_allclose(after[..., :2], np.broadcast_to(beta[:2], (5, 6, 6, 2)), rtol=1e-6)
    np.testing.assert_array_equal(after[..., 2:], before[..., 2:])
    assert silence_dead_channels(model) == 0


def test_the_variance_is_one_of_whole_numbers_whatever_the_scale_of_the_kernel():
    model = network(ScaledSign(), has_relu=False)
    conv = model.get_layer("conv")
    conv.kernel.assign(0.05 * np.sign(conv.kernel.numpy()))
    set_norm(model, 0.05**2 * np.array([0.9e-3, 1.1e-3, 2.0, 30.0]))
    assert silence_dead_channels(model) == 1


def test_a_new_student_has_none():
    for name in ("quicknet_small", "reactnet_a"):
        assert silence_dead_channels(build_student(name, (32, 32, 3), 5, width=0.125)) == 0


def test_a_quicknet_with_dead_channels_converts():
    """With their scales the engine rounds their shifts to sixteenths."""
    tf.keras.utils.set_random_seed(0)
    student = build_student("quicknet_small", (32, 32, 3), 10, width=0.5, stem_stride=1)
    randomize(student)
    pixels = random_images(24, 32)
    reestimate_batch_norms(student, pixels, least_variance=0.05)
    inner = tf.keras.Model(
        student.input,
        [student.get_layer(f"block16_{name}").output for name in ("sign", "relu")],
    )
    signs = inner(pixels, training=False)[0].numpy()
    conv, norm = student.get_layer("block16_conv"), student.get_layer("block16_bn")
    kernel = conv.kernel.numpy()
    # Against what most images have, so that the sums are negative on all.
    kernel[..., :64] = -np.where(signs.mean(axis=(0, 1, 2)) >= 0, 1.0, -1.0)[:, None]
    conv.kernel.assign(kernel)
    after_relu = inner(pixels, training=False)[1].numpy()
    dead = (after_relu == 0).all(axis=(0, 1, 2))
    assert dead.sum() >= 32
    gamma, beta, mean, variance = norm.get_weights()
    norm.set_weights([gamma, beta, np.where(dead, 0, mean), np.where(dead, 0, variance)])

    expected = student(pixels, training=False)["logits"].numpy()
    with pytest.raises(ExportError, match="does not compute what the student computes"):
        check_agreement(expected, run(convert(student), pixels.astype(np.uint8)), "with scales")
    assert silence_dead_channels(student) == dead.sum()
    np.testing.assert_allclose(
        student(pixels, training=False)["logits"].numpy(), expected, rtol=1e-4, atol=1e-4
    )
    check_agreement(expected, run(convert(student), pixels.astype(np.uint8)), "without")

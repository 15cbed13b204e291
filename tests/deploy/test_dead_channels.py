"""Channels whose latent weights have vanished must not turn their layer to float."""

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.errors import ExportError
from candle_tf.deploy.checks.operators import check_binary
from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.students.layers.blocks import batch_norm
from candle_tf.students.layers.quantizers import MIN_SCALE, ApproxSign, ScaledSign
from tests.deploy.test_binarize import randomize

CHANNELS = 32
# What the converter asks of each channel's scale.
CONVERTERS_LEAST_SCALE = 1.2e-7


def _student(quantizer: object) -> tf.keras.Model:
    """One binary convolution between a float stem and a classifier."""
    pixels = tf.keras.Input((8, 8, 3), name="pixels")
    x = tf.keras.layers.Conv2D(CHANNELS, 3, padding="same", name="stem")(pixels)
    x = lq.layers.QuantConv2D(
        CHANNELS, 3, padding="same", pad_values=1.0, use_bias=False, kernel_quantizer=quantizer,
        kernel_constraint=lq.constraints.WeightClip(1.0), name="binary",
    )(ApproxSign(name="sign")(x))  # fmt: skip
    x = tf.keras.layers.GlobalAveragePooling2D()(batch_norm(x, "bn"))
    return randomize(tf.keras.Model(pixels, {"logits": tf.keras.layers.Dense(4, name="logits")(x)}))


def _kill(student: tf.keras.Model, value: float, dead: np.ndarray) -> tf.keras.Model:
    kernel = student.get_layer("binary").kernel
    signs = np.where(kernel.numpy() >= 0, 1.0, -1.0)
    kernel.assign(np.where(dead, value * signs, kernel.numpy()))
    return student


ONE = np.arange(CHANNELS) == 5
ALL = np.full(CHANNELS, True)


@pytest.mark.parametrize("dead", [ONE, ALL], ids=["one", "all"])
@pytest.mark.parametrize("value", [0.0, 1e-12])
def test_a_killed_channel_keeps_its_scale_and_its_layer_binary(value, dead):
    student = _kill(_student(ScaledSign()), value, dead)
    layer = student.get_layer("binary")
    quantized = layer.kernel_quantizer(layer.kernel.numpy()).numpy()
    np.testing.assert_allclose(np.abs(quantized[..., dead]), MIN_SCALE, rtol=1e-6)
    assert np.abs(quantized).min() > CONVERTERS_LEAST_SCALE

    flatbuffer = convert(student)
    assert check_binary(flatbuffer, student)["LceBconv2d"] == 1
    pixels = np.random.default_rng(0).integers(0, 256, (16, 8, 8, 3)).astype(np.uint8)
    expected = student(pixels.astype(np.float32))["logits"].numpy()
    check_agreement(expected, run(flatbuffer, pixels), "file")


@pytest.mark.parametrize("value", [0.0, 1e-12])
def test_without_the_floor_one_dead_channel_drops_the_whole_layer(value):
    """What the floor is for: larq's own quantizer has none."""
    student = _kill(_student(lq.quantizers.MagnitudeAwareSign(clip_value=1.0)), value, ONE)
    with pytest.raises(ExportError, match="not binary: binary"):
        check_binary(convert(student), student)


def test_a_channel_killed_by_training_comes_back():
    """Its gradient passes at 0, so a floor in the forward pass does not freeze it."""
    student = _kill(_student(ScaledSign()), 0.0, ONE)
    layer = student.get_layer("binary")
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (8, 8, 8, 3)), tf.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(student(pixels, training=True)["logits"] ** 2)
    gradient = tape.gradient(total, layer.kernel).numpy()
    assert np.abs(gradient[..., 5]).max() > 0

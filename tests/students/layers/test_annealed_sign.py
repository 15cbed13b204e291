import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.architectures.bnext import annealed_conv
from candle_tf.students.layers.annealed_sign import (
    EXACT_SIGN_BELOW,
    BNextKernelSign,
    find_inexact_layers,
)
from candle_tf.students.layers.blocks import binary_conv, is_binary_conv

KERNEL = np.array([-1.5, -1, -0.7, -0.2, -1e-30, -0.0, 0, 1e-30, 0.05, 0.2, 0.7, 1.5], np.float32)
SIGNS = np.where(KERNEL >= 0, 1.0, -1.0)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 0.1, 2e-7])
def test_annealed_kernels_are_a_clipped_ramp(temperature):
    quantizer = BNextKernelSign()
    quantizer.temperature.assign(temperature)
    assert not quantizer.is_exact_sign
    expected = np.clip(KERNEL.astype(np.float64) / temperature, -1, 1)
    np.testing.assert_allclose(quantizer(tf.constant(KERNEL)), expected, rtol=1e-5)


def test_at_temperature_zero_kernels_are_exact_signs_and_those_of_zeros_are_positive():
    quantizer = BNextKernelSign()
    quantizer.set_exact_sign()
    assert quantizer.is_exact_sign
    np.testing.assert_array_equal(quantizer(tf.constant(KERNEL)), SIGNS)


def test_annealing_by_nine_tenths_ends_in_exact_signs():
    quantizer = BNextKernelSign()
    for epoch in range(1, 200):
        quantizer.anneal(0.9)
        assert quantizer.temperature.numpy() == pytest.approx(0.9**epoch, rel=1e-4)
        if quantizer.is_exact_sign:
            break
    assert epoch == int(np.ceil(np.log(EXACT_SIGN_BELOW) / np.log(0.9)))
    np.testing.assert_array_equal(quantizer(tf.constant(KERNEL)), SIGNS)


@pytest.mark.parametrize("temperature", [1.0, 0.1, 0.0])
def test_gradient_is_straight_through_for_every_weight(temperature):
    quantizer = BNextKernelSign()
    quantizer.temperature.assign(temperature)
    kernel = tf.Variable(KERNEL)
    upstream = np.random.default_rng(0).normal(size=KERNEL.shape).astype(np.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(quantizer(kernel) * upstream)
    np.testing.assert_array_equal(tape.gradient(total, kernel), upstream)
    assert quantizer.trainable_variables == []


@pytest.mark.parametrize("temperature", [1.0, EXACT_SIGN_BELOW / 2])
def test_half_precision_gives_the_same_kernels(temperature):
    """float16 has no number between 6e-8 and 0: the temperature is float32 there too."""
    quantizer = BNextKernelSign(dtype="mixed_float16")
    quantizer.temperature.assign(temperature)
    kernel = tf.constant(KERNEL, tf.float16)
    quantized = quantizer(kernel)
    assert quantized.dtype == tf.float16
    signs = np.where(kernel.numpy() >= 0, 1.0, -1.0)
    expected = signs if quantizer.is_exact_sign else np.clip(kernel.numpy(), -1, 1)
    np.testing.assert_array_equal(quantized, expected)


def _model() -> tf.keras.Model:
    inputs = tf.keras.Input((4, 4, 3))
    x = annealed_conv(inputs, 8, 3, 1, "first")
    x = annealed_conv(x, 8, 1, 1, "second")
    return tf.keras.Model(inputs, binary_conv(x, 8, 1, 1, "third"))


def test_layers_are_named_until_their_kernels_are_exact_signs():
    model = _model()
    assert [layer.name for layer in model.layers if is_binary_conv(layer)] == [
        "first", "second", "third"
    ]  # fmt: skip
    assert find_inexact_layers(model) == ["first", "second"]
    model.get_layer("first").kernel_quantizer.set_exact_sign()
    assert find_inexact_layers(model) == ["second"]
    model.get_layer("second").kernel_quantizer.temperature.assign(EXACT_SIGN_BELOW / 2)
    assert find_inexact_layers(model) == []


def test_temperatures_are_saved_with_the_model(tmp_path):
    model = _model()
    model.get_layer("first").kernel_quantizer.anneal(0.25)
    model.get_layer("second").kernel_quantizer.set_exact_sign()
    path = tf.train.Checkpoint(model=model).write(str(tmp_path / "checkpoint"))
    again = _model()
    tf.train.Checkpoint(model=again).read(path).assert_consumed()
    assert again.get_layer("first").kernel_quantizer.temperature.numpy() == 0.25
    assert find_inexact_layers(again) == ["first"]
    x = np.random.default_rng(0).choice([-1.0, 1.0], (2, 4, 4, 3)).astype(np.float32)
    np.testing.assert_array_equal(again(x), model(x))


def test_a_compiled_step_uses_the_present_temperature():
    model = _model()
    compiled = tf.function(model)
    x = np.ones((1, 4, 4, 3), np.float32)
    annealed = compiled(x).numpy()
    for name in ("first", "second"):
        model.get_layer(name).kernel_quantizer.set_exact_sign()
    exact = compiled(x).numpy()
    assert not np.allclose(annealed, exact)
    np.testing.assert_allclose(exact, model(x), rtol=1e-5)


def test_temperature_is_no_part_of_what_is_trained():
    layer = _model().get_layer("first")
    assert len(layer.trainable_variables) == 1
    assert [v is layer.kernel_quantizer.temperature for v in layer.non_trainable_variables] == [
        True
    ]
    assert isinstance(layer.kernel_constraint, lq.constraints.WeightClip)
    np.testing.assert_array_equal(layer.kernel_constraint(tf.constant([-9.0, 9.0])), [-1.5, 1.5])


def test_survives_a_round_trip_through_its_config():
    assert BNextKernelSign.precision == 1
    again = BNextKernelSign.from_config(BNextKernelSign(name="quantizer").get_config())
    assert again.name == "quantizer"
    np.testing.assert_array_equal(again(tf.constant(KERNEL)), np.clip(KERNEL, -1, 1))

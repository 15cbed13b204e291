import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.layers.quantizers import (
    MIN_SCALE,
    ApproxSign,
    ScaledSign,
    SteSign,
    approx_sign,
    scaled_sign,
    ste_sign,
)

EDGES = np.array([-2, -1.001, -1, -0.999, -0.5, -1e-30, -0.0, 0, 1e-30, 0.25, 0.999, 1, 1.001, 2])


def _gradient(function, values: np.ndarray, upstream: np.ndarray) -> np.ndarray:
    x = tf.Variable(values, dtype=tf.float32)
    with tf.GradientTape() as tape:
        y = tf.reduce_sum(function(x) * tf.constant(upstream, tf.float32))
    return tape.gradient(y, x).numpy()


@pytest.mark.parametrize("function", [approx_sign, ApproxSign()])
def test_approx_sign(function):
    expected = np.where(EDGES >= 0, 1.0, -1.0)
    np.testing.assert_array_equal(function(tf.constant(EDGES, tf.float32)), expected)
    upstream = np.linspace(-3, 4, len(EDGES))
    slopes = np.where(np.abs(EDGES) < 1, 2 - 2 * np.abs(EDGES), 0.0)
    actual = _gradient(function, EDGES, upstream)
    np.testing.assert_allclose(actual, slopes * upstream, rtol=1e-5, atol=1e-6)


def test_approx_sign_gradient_is_that_of_the_piecewise_quadratic():
    """The gradient is the derivative of Bi-Real Net's approximation of the sign."""

    def quadratic(x):
        x = np.clip(x, -1, 1)
        return np.where(x < 0, 2 * x + x**2, 2 * x - x**2)

    points = np.linspace(-1.45, 1.45, 30)
    numerical = (quadratic(points + 1e-6) - quadratic(points - 1e-6)) / 2e-6
    actual = _gradient(approx_sign, points, np.ones(30))
    np.testing.assert_allclose(actual, numerical, atol=1e-4)


def _kernel() -> np.ndarray:
    kernel = np.random.default_rng(0).normal(0, 0.5, (3, 3, 4, 6)).astype(np.float32)
    kernel[..., 1] *= 40
    kernel[0, 0, 0, :] = 0.0
    return kernel


@pytest.mark.parametrize("function", [scaled_sign, ScaledSign()])
def test_scaled_sign(function):
    kernel = _kernel()
    alpha = np.abs(kernel.astype(np.float64)).mean(axis=(0, 1, 2))
    actual = function(tf.constant(kernel)).numpy()
    np.testing.assert_allclose(actual, np.where(kernel >= 0, alpha, -alpha), rtol=1e-5)
    for channel in range(kernel.shape[-1]):
        values = np.unique(actual[..., channel])
        assert len(values) == 2
        assert values[0] == -values[1]


def test_scaled_sign_of_a_dense_kernel_scales_each_column():
    kernel = np.array([[0.5, -2.0], [-1.5, -4.0]], np.float32)
    expected = [[1.0, -3.0], [-1.0, -3.0]]
    np.testing.assert_array_equal(scaled_sign(tf.constant(kernel)), expected)


def test_scaled_sign_gradient_is_straight_through_inside_its_region():
    kernel = np.tile(EDGES.reshape(1, 1, -1, 1), (1, 1, 1, 2)).astype(np.float32)
    upstream = np.random.default_rng(1).normal(size=kernel.shape)
    actual = _gradient(scaled_sign, kernel, upstream)
    # No gradient through alpha: it does not depend on the other weights.
    expected = np.where(np.abs(kernel) <= 1, upstream, 0.0)
    np.testing.assert_allclose(actual, expected, rtol=1e-6)
    assert (actual[0, 0, np.abs(EDGES) == 1] != 0).all()


def test_a_dead_channel_keeps_a_positive_scale():
    kernel = _kernel()
    kernel[..., 2] = 0.0
    kernel[..., 3] *= 1e-12
    actual = scaled_sign(tf.constant(kernel)).numpy()
    assert MIN_SCALE > 1.2e-7
    np.testing.assert_allclose(np.abs(actual[..., 2:4]), MIN_SCALE)
    np.testing.assert_array_equal(np.sign(actual[..., 2]), 1.0)
    assert _gradient(scaled_sign, kernel, np.ones(kernel.shape))[..., 2].min() == 1.0


def test_scaled_sign_of_its_own_result_is_the_same():
    kernel = _kernel()
    kernel[..., 2] = 0.0
    once = scaled_sign(tf.constant(kernel))
    np.testing.assert_allclose(scaled_sign(once), once, rtol=1e-5)


@pytest.mark.parametrize(
    ("function", "region"), [(ste_sign, 1.0), (SteSign(), 1.0), (SteSign(0.999), 0.999)]
)
def test_ste_sign(function, region):
    expected = np.where(EDGES >= 0, 1.0, -1.0)
    np.testing.assert_array_equal(function(tf.constant(EDGES, tf.float32)), expected)
    upstream = np.linspace(-3, 4, len(EDGES))
    passed = np.abs(EDGES.astype(np.float32)) <= np.float32(region)
    actual = _gradient(function, EDGES, upstream)
    np.testing.assert_allclose(actual, np.where(passed, upstream, 0.0), rtol=1e-5)
    assert passed.sum() == (10 if region == 1.0 else 8)


def test_the_region_of_ste_sign_survives_a_round_trip():
    layer = SteSign.from_config(SteSign(1.25).get_config())
    x = np.array([1.2, 1.3])
    np.testing.assert_array_equal(_gradient(layer, x, np.ones(2)), [1, 0])


@pytest.mark.parametrize("layer", [ApproxSign, ScaledSign, SteSign])
def test_layers_say_they_are_one_bit_and_survive_a_round_trip(layer):
    assert layer.precision == 1
    again = layer.from_config(layer(name="quantizer").get_config())
    x = tf.constant(_kernel())
    np.testing.assert_array_equal(again(x), layer()(x))

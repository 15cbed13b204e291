import numpy as np
import pytest
import tensorflow as tf

from candle_tf.native.build import NATIVE, native_operators
from candle_tf.native.ops import mean_pool
from tests.native.availability import needs_native

pytestmark = needs_native

SHAPES = [(2, 4, 6, 16), (3, 5, 7, 17), (1, 1, 1, 1), (2, 1, 4, 130), (0, 4, 4, 8)]


def _reference(x: np.ndarray, d_means: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Means and gradient in float64, square by square."""
    means, gradient = np.zeros_like(d_means), np.zeros_like(x)
    for i, j in np.ndindex(d_means.shape[1:3]):
        square = np.s_[:, 2 * i : 2 * i + 2, 2 * j : 2 * j + 2]
        means[:, i, j] = x[square].mean(axis=(1, 2))
        count = x[square].shape[1] * x[square].shape[2]
        gradient[square] = d_means[:, i : i + 1, j : j + 1] / count
    return means, gradient


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_means_and_their_gradient_are_those_of_the_definition(shape):
    rng = np.random.default_rng(0)
    n, h, w, c = shape
    x, d_means = rng.normal(size=shape), rng.normal(size=(n, -(-h // 2), -(-w // 2), c))
    inputs = tf.constant(x, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        ours = mean_pool(inputs)
    gradient = tape.gradient(ours, inputs, tf.constant(d_means, tf.float32))
    for got, wanted in zip((ours, gradient), _reference(x, d_means), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-6)


def test_means_of_no_number_stay_in_their_square():
    x = np.ones((1, 4, 4, 3), np.float32)
    x[0, 1, 1, 2] = np.nan
    means = mean_pool(tf.constant(x)).numpy()
    assert np.isnan(means[0, 0, 0, 2])
    assert np.isfinite(means).sum() == means.size - 1


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="means' shape"):
        native_operators(NATIVE).candle_mean_pool_grad(
            d_means=tf.zeros([1, 2, 2, 3]), x=tf.zeros([1, 5, 5, 3])
        )

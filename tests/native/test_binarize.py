import numpy as np
import pytest
import tensorflow as tf

from candle_tf.native.ops import binarize
from tests.native.availability import needs_native

pytestmark = needs_native

SHAPES = [(3, 3, 16, 32), (3, 3, 5, 17), (1, 1, 3, 130), (3, 3, 1, 1), (1, 1, 1, 7)]
FLOOR = 1e-6


def _weights(shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_scale_make_the_scaled_sign(shape, dtype):
    weights = _weights(shape)
    values, scale = binarize(tf.constant(weights), dtype, floor=FLOOR)
    magnitude = np.abs(weights.astype(np.float64)).mean(axis=(0, 1, 2))
    assert values.dtype == dtype
    np.testing.assert_array_equal(tf.cast(values, tf.float32), np.where(weights >= 0, 0.5, -0.5))
    np.testing.assert_allclose(scale, 2 * magnitude, rtol=1e-6)


def test_without_a_floor_values_are_signs_and_there_is_no_scale():
    weights = _weights((3, 3, 4, 6))
    weights[0, 0, 0, :3] = [0.0, -0.0, np.nan]
    values, scale = binarize(tf.constant(weights), tf.float32, floor=None)
    assert scale is None
    np.testing.assert_array_equal(values, np.where(weights >= 0, 1.0, -1.0))


def test_a_channel_that_has_vanished_keeps_the_floor_and_a_broken_one_shows():
    weights = _weights((3, 3, 4, 3))
    weights[..., 0] = 0.0
    weights[1, 1, 2, 2] = np.nan
    _, scale = binarize(tf.constant(weights), tf.float32, floor=FLOOR)
    np.testing.assert_allclose(scale[0], 2 * FLOOR, rtol=1e-6)
    assert np.isfinite(scale[1])
    assert np.isnan(scale[2])


@pytest.mark.parametrize("dtype", [tf.float32, tf.bfloat16])
@pytest.mark.parametrize("clip", [0.7, float("inf")])
@pytest.mark.parametrize("floor", [FLOOR, None])
def test_the_gradient_is_straight_through_over_the_scale(dtype, clip, floor):
    weights = _weights((3, 3, 5, 9))
    upstream = np.random.default_rng(1).normal(size=weights.shape).astype(np.float32)
    upstream = tf.cast(upstream, dtype)
    w = tf.constant(weights)
    with tf.GradientTape() as tape:
        tape.watch(w)
        values, scale = binarize(w, dtype, floor=floor, clip=clip)
        loss = tf.reduce_sum(tf.cast(values * upstream, tf.float32))
    gradient = tape.gradient(loss, w)
    wanted = np.where(np.abs(weights) <= clip, tf.cast(upstream, tf.float32), 0.0)
    wanted = wanted / (1.0 if scale is None else scale.numpy())
    assert gradient.dtype == tf.float32
    np.testing.assert_allclose(gradient, wanted, rtol=1e-6)

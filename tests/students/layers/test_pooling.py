import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.students.layers.pooling import GlobalMeanPool

CHANNELS = 16


@pytest.mark.parametrize("keepdims", [False, True])
@pytest.mark.parametrize("shape", [(1, 1), (7, 7), (5, 8)])
def test_it_is_the_mean_over_the_map(shape, keepdims):
    x = np.random.default_rng(0).normal(1, 2, (2, *shape, 6)).astype(np.float32)
    layer = GlobalMeanPool(keepdims=keepdims)
    expected = x.astype(np.float64).mean(axis=(1, 2), keepdims=keepdims)
    actual = layer(x)
    assert actual.shape == layer.compute_output_shape(x.shape) == expected.shape
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-6)


def test_its_gradient_is_spread_evenly():
    x = tf.Variable(np.random.default_rng(0).normal(size=(2, 3, 5, 4)), dtype=tf.float32)
    upstream = np.random.default_rng(1).normal(size=(2, 4)).astype(np.float32)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(GlobalMeanPool()(x) * upstream)
    expected = np.broadcast_to(upstream[:, None, None] / 15, x.shape)
    np.testing.assert_allclose(tape.gradient(total, x), expected, rtol=1e-5)


def rounding(layer: tf.keras.layers.Layer, maps: np.ndarray) -> tuple[float, float]:
    """How far Keras, and the converted file, are from the mean in float64, relative to it."""
    pixels = tf.keras.Input(maps.shape[1:], name="pixels")
    student = tf.keras.Model(pixels, {"logits": layer(pixels)})
    exact = maps.astype(np.float64).mean(axis=(1, 2))
    outputs = student(maps)["logits"].numpy(), run(convert(student, tf.float32), maps)
    in_keras, in_the_file = (float(np.abs(output / exact - 1).max()) for output in outputs)
    return in_keras, in_the_file


def test_a_large_map_is_rounded_as_finely_in_the_converted_file():
    maps = np.random.default_rng(0).normal(2, 1, (4, 112, 112, CHANNELS)).astype(np.float32)
    assert max(rounding(GlobalMeanPool(), maps)) < 5e-7
    # What it is for: Keras's own layer, converted, sums the map value by value.
    assert rounding(tf.keras.layers.GlobalAveragePooling2D(), maps)[1] > 2e-6

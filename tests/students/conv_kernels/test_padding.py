import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.conv_kernels.padding import pad_same, same_padding


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("window", [1, 2, 3, 5])
@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_padding_is_that_of_same(side, window, stride):
    x = tf.random.stateless_normal((1, side, side, 1), seed=(side, window))
    kernel = tf.random.stateless_normal((window, window, 1, 1), seed=(3, 4))
    ours = tf.nn.conv2d(pad_same(x, window, stride, 0.0), kernel, stride, "VALID")
    # A window of 1 is not padded, and needs none where the stride is 1.
    np.testing.assert_allclose(ours, tf.nn.conv2d(x, kernel, stride, "SAME"), rtol=1e-5, atol=1e-6)
    before, after = same_padding(side, window, stride)
    assert 0 <= after - before <= 1


def test_the_value_is_what_lies_around():
    padded = pad_same(tf.zeros((1, 3, 2, 1), tf.bfloat16), 3, 1, 1.0)
    assert padded.dtype == tf.bfloat16
    expected = np.ones((5, 4))
    expected[1:4, 1:3] = 0
    np.testing.assert_array_equal(tf.cast(padded, tf.float32)[0, ..., 0], expected)

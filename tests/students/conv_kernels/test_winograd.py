import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.conv_kernels import winograd
from tests.students.conv_kernels.convolutions import (
    assert_gradients_are_tensorflows,
    numpy_convolution,
    rounding_of_gradients,
    signs_case,
)

# Maps of one block and of several, whole and cut off on one side or both.
MAPS = [(1, 1), (2, 2), (3, 3), (2, 3), (4, 4), (1, 4), (5, 5), (4, 6), (7, 7), (8, 8), (10, 3)]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pad_value", [1.0, 0.0])
@pytest.mark.parametrize(("height", "width"), MAPS)
def test_signs_are_convolved_exactly(height, width, pad_value, dtype):
    x, kernel = signs_case(height, width)
    y, _ = winograd.conv(tf.cast(x, dtype), tf.cast(kernel, dtype), pad_value, 1)
    expected = numpy_convolution(x, kernel, 1, pad_value)
    np.testing.assert_array_equal(tf.cast(y, tf.float64), expected)


@pytest.mark.parametrize(("height", "width"), MAPS)
def test_any_numbers_are_convolved(height, width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    y, _ = winograd.conv(tf.constant(x), tf.constant(kernel), 0.5, 1)
    np.testing.assert_allclose(y, numpy_convolution(x, kernel, 1, 0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), MAPS)
def test_gradients_are_those_of_tensorflows_convolution(height, width):
    assert_gradients_are_tensorflows(winograd, *signs_case(height, width), stride=1)


def test_gradients_in_bfloat16_are_rounded_and_no_more():
    for error in rounding_of_gradients(winograd, *signs_case(6, 6, channels=64)):
        assert 0 < error < 2**-6


def test_batch_size_may_be_unknown():
    x, kernel = signs_case(5, 6)
    signature = [tf.TensorSpec([None, 5, 6, 3])]
    traced = tf.function(lambda x: winograd.conv(x, tf.constant(kernel), 1.0, 1).y, signature)
    np.testing.assert_array_equal(traced(tf.constant(x)), numpy_convolution(x, kernel, 1, 1.0))


@pytest.mark.parametrize(("window", "stride"), [(3, 2), (5, 1)])
def test_other_kernels_and_strides_are_refused(window, stride):
    x, kernel = signs_case(6, 6, window=window)
    with pytest.raises(ValueError, match="3x3 kernels of stride 1"):
        winograd.conv(tf.constant(x), tf.constant(kernel), 1.0, stride)

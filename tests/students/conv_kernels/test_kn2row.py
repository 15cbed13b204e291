import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.conv_kernels import kn2row
from tests.students.conv_kernels.convolutions import (
    assert_gradients_are_tensorflows,
    numpy_convolution,
    rounding_of_gradients,
    signs_case,
)

# (height, width, window, stride): kernel positions without a pixel, unequal sides, kernels larger
# than the map.
SHAPES = [(1, 1, 3, 1), (2, 2, 3, 1), (1, 2, 3, 1), (3, 2, 3, 1), (2, 2, 5, 1), (4, 4, 3, 2),
          (3, 4, 3, 2), (2, 2, 2, 2), (1, 1, 3, 2), (4, 3, 5, 2)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pad_value", [1.0, 0.0])
@pytest.mark.parametrize(("height", "width", "window", "stride"), SHAPES)
def test_signs_are_convolved_exactly(height, width, window, stride, pad_value, dtype):
    x, kernel = signs_case(height, width, window)
    y, _ = kn2row.conv(tf.cast(x, dtype), tf.cast(kernel, dtype), pad_value, stride)
    np.testing.assert_array_equal(y, numpy_convolution(x, kernel, stride, pad_value))


@pytest.mark.parametrize(("height", "width", "window", "stride"), SHAPES)
def test_gradients_are_those_of_tensorflows_convolution(height, width, window, stride):
    assert_gradients_are_tensorflows(kn2row, *signs_case(height, width, window), stride)


def test_gradients_in_bfloat16_are_rounded_and_no_more():
    case = signs_case(2, 2, channels=64)
    for error in rounding_of_gradients(kn2row, *case):
        assert 0 < error < 2**-6


def test_batch_size_may_be_unknown():
    x, kernel = signs_case(2, 2)
    signature = [tf.TensorSpec([None, 2, 2, 3])]
    traced = tf.function(lambda x: kn2row.conv(x, tf.constant(kernel), 1.0, 1).y, signature)
    np.testing.assert_array_equal(traced(tf.constant(x)), numpy_convolution(x, kernel, 1, 1.0))


def test_a_stride_that_leaves_pixels_out_is_refused():
    x, kernel = signs_case(4, 4, window=2)
    with pytest.raises(ValueError, match="stride of 3"):
        kn2row.conv(tf.constant(x), tf.constant(kernel), 1.0, 3)

from functools import partial

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.conv_kernels.kn2row import convolve_by_kn2row
from tests.students.conv_kernels.convolutions import (
    assert_gradients_are_tensorflows,
    numpy_convolution,
    rounding_of_gradients,
    signs_case,
)

# (height, width, window, stride): taps without a pixel, unequal sides, windows over the whole map.
SHAPES = [(1, 1, 3, 1), (2, 2, 3, 1), (1, 2, 3, 1), (3, 2, 3, 1), (2, 2, 5, 1), (4, 4, 3, 2),
          (3, 4, 3, 2), (2, 2, 2, 2), (1, 1, 3, 2), (4, 3, 5, 2)]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pad_value", [1.0, 0.0])
@pytest.mark.parametrize(("height", "width", "window", "stride"), SHAPES)
def test_signs_are_convolved_exactly(height, width, window, stride, pad_value, dtype):
    x, kernel = signs_case(height, width, window)
    y, _ = convolve_by_kn2row(tf.cast(x, dtype), tf.cast(kernel, dtype), pad_value, stride)
    np.testing.assert_array_equal(y, numpy_convolution(x, kernel, stride, pad_value))


@pytest.mark.parametrize(("height", "width", "window", "stride"), SHAPES)
def test_gradients_are_those_of_tensorflows_convolution(height, width, window, stride):
    form = partial(convolve_by_kn2row, stride=stride)
    assert_gradients_are_tensorflows(form, *signs_case(height, width, window), stride)


def test_gradients_in_bfloat16_are_rounded_and_no_more():
    case = signs_case(2, 2, channels=64)
    for error in rounding_of_gradients(partial(convolve_by_kn2row, stride=1), *case):
        assert 0 < error < 2**-6


def test_batch_size_may_be_unknown():
    x, kernel = signs_case(2, 2)
    signature = [tf.TensorSpec([None, 2, 2, 3])]
    traced = tf.function(lambda x: convolve_by_kn2row(x, tf.constant(kernel), 1.0, 1).y, signature)
    np.testing.assert_array_equal(traced(tf.constant(x)), numpy_convolution(x, kernel, 1, 1.0))

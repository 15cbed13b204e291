import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.conv_kernels import direct
from tests.students.conv_kernels.convolutions import (
    assert_gradients_are_tensorflows,
    numpy_convolution,
    rounding_of_gradients,
    signs_case,
)

# (side, window, stride): output sides odd and even, up to im2col's bound and beyond.
SHAPES = [(1, 3, 1), (2, 3, 1), (2, 5, 1), (3, 3, 1), (4, 3, 2), (5, 3, 2), (8, 3, 1), (9, 3, 1),
          (16, 3, 2), (18, 3, 2), (6, 1, 1), (6, 1, 2)]  # fmt: skip


def test_the_shapes_lie_on_both_sides_of_the_bound():
    outputs = {-(-side // stride) for side, window, stride in SHAPES if window > 1}
    assert {direct.IM2COL_MAX_SIDE, direct.IM2COL_MAX_SIDE + 1} <= outputs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pad_value", [1.0, 0.0])
@pytest.mark.parametrize(("side", "window", "stride"), SHAPES)
def test_signs_are_convolved_exactly(side, window, stride, pad_value, dtype):
    x, kernel = signs_case(side, side, window)
    y, _ = direct.conv(tf.cast(x, dtype), tf.cast(kernel, dtype), pad_value, stride)
    # Sums of a few +-1 are small whole numbers, exact in bfloat16 too.
    expected = numpy_convolution(x, kernel, stride, pad_value)
    np.testing.assert_array_equal(tf.cast(y, tf.float64), expected)


@pytest.mark.parametrize(("side", "window", "stride"), SHAPES)
def test_gradients_are_those_of_tensorflows_convolution(side, window, stride):
    assert_gradients_are_tensorflows(direct, *signs_case(side, side, window), stride)


def test_gradients_in_bfloat16_are_rounded_and_no_more():
    for error in rounding_of_gradients(direct, *signs_case(4, 4)):
        assert 0 < error < 2**-6

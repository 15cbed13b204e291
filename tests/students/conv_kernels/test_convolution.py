import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.conv_kernels import kn2row, winograd
from candle_tf.students.conv_kernels.convolution import convolve
from candle_tf.students.conv_kernels.padding import pad_same

DIRECT, WINOGRAD, KN2ROW = "Conv2D", "BatchMatMulV2", "MatMul"
TINY, MANY, ENOUGH = kn2row.MAX_SIDE, kn2row.MIN_CHANNELS, winograd.MIN_CHANNELS
# (side, window, stride, channels, filters, operator): both sides of each bound.
CASES = [
    (TINY, 3, 1, MANY, MANY, KN2ROW),
    (2 * TINY, 3, 2, MANY, MANY, KN2ROW),
    (TINY, 3, 1, MANY, MANY - 1, WINOGRAD),
    (TINY + 1, 3, 1, MANY, MANY, WINOGRAD),
    (2 * TINY + 1, 3, 2, MANY, MANY, DIRECT),
    # A 1x1 convolution is one product anyway.
    (TINY, 1, 1, MANY, MANY, KN2ROW),
    (2 * TINY, 2, 3, MANY, MANY, DIRECT),
    (8, 3, 1, ENOUGH, ENOUGH, WINOGRAD),
    (8, 3, 1, ENOUGH - 1, ENOUGH, DIRECT),
    (8, 3, 1, ENOUGH, ENOUGH - 1, DIRECT),
    (8, 3, 2, ENOUGH, ENOUGH, DIRECT),
    (8, 5, 1, ENOUGH, ENOUGH, DIRECT),
]
SHAPES = [shape for *shape, _ in CASES]


def _case(side: int, window: int, channels: int, filters: int) -> tuple[tf.Tensor, ...]:
    rng = np.random.default_rng(side)
    x = rng.choice([-1.0, 1.0], (2, side, side, channels))
    kernel = rng.choice([-1.0, 1.0], (window, window, channels, filters))
    scale = rng.uniform(0.1, 2, filters)
    return tuple(tf.constant(each, tf.float32) for each in (x, kernel, scale))


@pytest.mark.parametrize(("side", "window", "stride", "channels", "filters", "operator"), CASES)
def test_each_shape_is_computed_by_the_implementation_that_is_fast_for_it(
    side, window, stride, channels, filters, operator
):
    x, kernel, _ = _case(side, window, channels, filters)
    traced = tf.function(lambda x, kernel: convolve(x, kernel, 1.0, stride))
    operators = {
        node.type for node in traced.get_concrete_function(x, kernel).graph.get_operations()
    }
    # kn2row has single products, Winograd's algorithm batches of 16.
    assert operator in operators
    assert not operators & ({DIRECT, WINOGRAD} - {operator})


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("side", "window", "stride", "channels", "filters"), SHAPES)
def test_forward_and_gradients_are_tensorflows(side, window, stride, channels, filters, scaled):
    x, kernel, scale = _case(side, window, channels, filters)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, kernel])
        # The gradient of a scaled sign is that of the scaled kernel, passed straight through.
        quantized = kernel * scale if scaled else kernel
        ours = convolve(x, kernel, 1.0, stride, scale if scaled else None)
        plain = tf.nn.conv2d(pad_same(x, window, stride, 1.0), quantized, stride, "VALID")
        upstream = tf.constant(np.random.default_rng(5).normal(size=plain.shape), tf.float32)
        of_ours, of_plain = (tf.reduce_sum(y * upstream) for y in (ours, plain))
    pairs = [
        (ours, plain),
        (tape.gradient(of_ours, x), tape.gradient(of_plain, x)),
        (tape.gradient(of_ours, kernel), tape.gradient(of_plain, quantized)),
    ]
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=5e-4)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_output_is_float32(dtype):
    for side, window, stride, channels, filters in SHAPES:
        x, kernel, scale = _case(side, window, channels, filters)
        y = convolve(tf.cast(x, dtype), tf.cast(kernel, dtype), 1.0, stride, scale)
        assert y.dtype == tf.float32

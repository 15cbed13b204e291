import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.conv_kernels.convolution import (
    TAPS_CHANNELS,
    TAPS_UP_TO,
    WINOGRAD_CHANNELS,
    convolve,
)
from candle_tf.students.conv_kernels.padding import pad_same

DIRECT, WINOGRAD, TAPS = "Conv2D", "BatchMatMulV2", "MatMul"
# (side, window, stride, channels, filters, form): both sides of each bound.
FORMS = [
    (TAPS_UP_TO, 3, 1, TAPS_CHANNELS, TAPS_CHANNELS, TAPS),
    (2 * TAPS_UP_TO, 3, 2, TAPS_CHANNELS, TAPS_CHANNELS, TAPS),
    (TAPS_UP_TO, 3, 1, TAPS_CHANNELS, TAPS_CHANNELS - 1, WINOGRAD),
    (TAPS_UP_TO + 1, 3, 1, TAPS_CHANNELS, TAPS_CHANNELS, WINOGRAD),
    (2 * TAPS_UP_TO + 1, 3, 2, TAPS_CHANNELS, TAPS_CHANNELS, DIRECT),
    (TAPS_UP_TO, 1, 1, TAPS_CHANNELS, TAPS_CHANNELS, TAPS),
    (2 * TAPS_UP_TO, 2, 3, TAPS_CHANNELS, TAPS_CHANNELS, DIRECT),
    (8, 3, 1, WINOGRAD_CHANNELS, WINOGRAD_CHANNELS, WINOGRAD),
    (8, 3, 1, WINOGRAD_CHANNELS - 1, WINOGRAD_CHANNELS, DIRECT),
    (8, 3, 1, WINOGRAD_CHANNELS, WINOGRAD_CHANNELS - 1, DIRECT),
    (8, 3, 2, WINOGRAD_CHANNELS, WINOGRAD_CHANNELS, DIRECT),
    (8, 5, 1, WINOGRAD_CHANNELS, WINOGRAD_CHANNELS, DIRECT),
]
SHAPES = [shape for *shape, _ in FORMS]


def _case(side: int, window: int, channels: int, filters: int) -> tuple[tf.Tensor, ...]:
    rng = np.random.default_rng(side)
    x = rng.choice([-1.0, 1.0], (2, side, side, channels))
    kernel = rng.choice([-1.0, 1.0], (window, window, channels, filters))
    scale = rng.uniform(0.1, 2, filters)
    return tuple(tf.constant(each, tf.float32) for each in (x, kernel, scale))


@pytest.mark.parametrize(("side", "window", "stride", "channels", "filters", "form"), FORMS)
def test_each_shape_takes_the_form_that_is_fast_for_it(
    side, window, stride, channels, filters, form
):
    x, kernel, _ = _case(side, window, channels, filters)
    traced = tf.function(lambda x, kernel: convolve(x, kernel, stride, 1.0))
    operators = {
        node.type for node in traced.get_concrete_function(x, kernel).graph.get_operations()
    }
    # The others' products are single ones or, Winograd's, batches of 16.
    assert form in operators
    assert not operators & ({DIRECT, WINOGRAD} - {form})


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("side", "window", "stride", "channels", "filters"), SHAPES)
def test_forward_and_gradients_are_tensorflows(side, window, stride, channels, filters, scaled):
    x, kernel, scale = _case(side, window, channels, filters)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, kernel])
        # The gradient of a scaled sign is that of the scaled kernel, passed straight through.
        quantized = kernel * scale if scaled else kernel
        ours = convolve(x, kernel, stride, 1.0, scale if scaled else None)
        plain = tf.nn.conv2d(pad_same(x, window, stride, 1.0), quantized, stride, "VALID")
        flow = tf.constant(np.random.default_rng(5).normal(size=plain.shape), tf.float32)
        of_ours, of_plain = (tf.reduce_sum(y * flow) for y in (ours, plain))
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
        y = convolve(tf.cast(x, dtype), tf.cast(kernel, dtype), stride, 1.0, scale)
        assert y.dtype == tf.float32

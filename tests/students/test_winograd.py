import itertools

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.convolution import WINOGRAD_CHANNELS, convolve, pad_same
from candle_tf.students.winograd import convolve_3x3

# Maps of one block, whole and cut off, and of several, whole and cut off on one side or both.
MAPS = [(1, 1), (2, 2), (3, 3), (2, 3), (4, 4), (1, 4), (5, 5), (4, 6), (7, 7), (8, 8), (10, 3)]


def _numpy(x: np.ndarray, kernel: np.ndarray, pad_value: float) -> np.ndarray:
    """The convolution as a sum over taps, in float64."""
    padded = np.pad(
        x.astype(np.float64), [(0, 0), (1, 1), (1, 1), (0, 0)], constant_values=pad_value
    )
    height, width = x.shape[1:3]
    taps = itertools.product(range(3), repeat=2)
    return sum(padded[:, a : a + height, b : b + width] @ kernel[a, b] for a, b in taps)


def _case(height: int, width: int, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * 16 + width)
    x = rng.choice([-1.0, 1.0], (2, height, width, channels)).astype(np.float32)
    return x, rng.choice([-1.0, 1.0], (3, 3, channels, 4)).astype(np.float32)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pad_value", [1.0, 0.0])
@pytest.mark.parametrize(("height", "width"), MAPS)
def test_signs_are_convolved_exactly(height, width, pad_value, dtype):
    x, kernel = _case(height, width)
    y, _ = convolve_3x3(tf.cast(x, dtype), tf.cast(kernel, dtype), pad_value)
    assert y.dtype == dtype
    np.testing.assert_array_equal(tf.cast(y, tf.float64), _numpy(x, kernel, pad_value))


@pytest.mark.parametrize(("height", "width"), MAPS)
def test_any_numbers_are_convolved(height, width):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, height, width, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 4)).astype(np.float32)
    y, _ = convolve_3x3(tf.constant(x), tf.constant(kernel), 0.5)
    np.testing.assert_allclose(y, _numpy(x, kernel, 0.5), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), MAPS)
def test_gradients_are_those_of_tensorflows_convolution(height, width):
    x, kernel = map(tf.constant, _case(height, width))
    y, gradients = convolve_3x3(x, kernel, 1.0)
    rng = np.random.default_rng(1)
    for_x, for_kernel = (tf.constant(rng.normal(size=y.shape), tf.float32) for _ in range(2))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, kernel])
        plain = tf.nn.conv2d(pad_same(x, 3, 1, 1.0), kernel, 1, "VALID")
    to_x, to_kernel = gradients(for_x, for_kernel)
    expected = tape.gradient(plain, x, for_x), tape.gradient(plain, kernel, for_kernel)
    np.testing.assert_allclose(to_x, expected[0], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(to_kernel, expected[1], rtol=1e-4, atol=1e-5)


def test_gradients_in_bfloat16_are_rounded_and_no_more():
    x, kernel = _case(6, 6, channels=64)
    dy = np.random.default_rng(2).normal(size=(2, 6, 6, 4)).astype(np.float32)
    found = {}
    for dtype in ("float32", "bfloat16"):
        _, gradients = convolve_3x3(tf.cast(x, dtype), tf.cast(kernel, dtype), 1.0)
        upstream = tf.cast(dy, dtype)
        found[dtype] = [tf.cast(g, tf.float32).numpy() for g in gradients(upstream, upstream)]
    for exact, rounded in zip(found["float32"], found["bfloat16"], strict=True):
        error = np.abs(rounded - exact).max() / np.abs(exact).max()
        assert 0 < error < 2**-6


def test_batch_size_may_be_unknown():
    x, kernel = _case(5, 6)
    signature = [tf.TensorSpec([None, *x.shape[1:]])]
    traced = tf.function(lambda x: convolve_3x3(x, tf.constant(kernel), 1.0)[0], signature)
    np.testing.assert_array_equal(traced(tf.constant(x)), _numpy(x, kernel, 1.0))


def _operators(channels: int, filters: int, stride: int) -> set[str]:
    @tf.function
    def traced(x: tf.Tensor, kernel: tf.Tensor) -> tf.Tensor:
        return convolve(x, kernel, stride, 1.0)

    kernel = tf.ones([3, 3, channels, filters])
    graph = traced.get_concrete_function(tf.ones([1, 16, 16, channels]), kernel).graph
    # A custom gradient is a function of its own in the graph's library.
    functions = [f.node_def for f in graph.as_graph_def().library.function]
    nodes = [*graph.as_graph_def().node, *itertools.chain.from_iterable(functions)]
    return {node.op for node in nodes}


@pytest.mark.parametrize(
    ("channels", "filters", "stride", "direct"),
    [
        (WINOGRAD_CHANNELS, WINOGRAD_CHANNELS, 1, False),
        (WINOGRAD_CHANNELS, WINOGRAD_CHANNELS, 2, True),
        (WINOGRAD_CHANNELS - 1, WINOGRAD_CHANNELS, 1, True),
        (WINOGRAD_CHANNELS, WINOGRAD_CHANNELS - 1, 1, True),
    ],
)
def test_many_channels_and_stride_1_take_this_form(channels, filters, stride, direct):
    assert ("Conv2D" in _operators(channels, filters, stride)) == direct


@pytest.mark.parametrize("side", [2, 8])
def test_the_convolution_scales_its_two_gradients_apart(side):
    rng = np.random.default_rng(3)
    channels = WINOGRAD_CHANNELS
    x = tf.constant(rng.choice([-1.0, 1.0], (2, side, side, channels)), tf.float32)
    kernel = tf.constant(rng.choice([-1.0, 1.0], (3, 3, channels, channels)), tf.float32)
    scale = tf.constant(rng.uniform(0.1, 2, channels), tf.float32)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, kernel])
        quantized = kernel * scale
        ours = convolve(x, kernel, 1, 1.0, scale)
        plain = tf.nn.conv2d(pad_same(x, 3, 1, 1.0), quantized, 1, "VALID")
        upstream = tf.constant(rng.normal(size=plain.shape), tf.float32)
        of_ours, of_plain = (tf.reduce_sum(y * upstream) for y in (ours, plain))
    np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-3)
    for ours_, plain_ in ((x, x), (kernel, quantized)):
        actual, expected = tape.gradient(of_ours, ours_), tape.gradient(of_plain, plain_)
        np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-3)

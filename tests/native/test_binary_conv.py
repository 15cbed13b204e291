import numpy as np
import pytest
import tensorflow as tf

from candle_tf.native.convolution import WINOGRAD_CHANNELS, convolve, convolve_signs
from candle_tf.native.ops import binary_conv, winograd_gradients
from tests.native.availability import needs_native
from tests.native.padding import pad_same

pytestmark = needs_native

# Batch, height, width, channels, filters, kernel, stride.
CASES = [
    (2, 5, 6, 3, 7, 3, 1),
    (1, 1, 1, 1, 1, 3, 1),
    (3, 7, 7, 17, 33, 3, 2),
    (2, 4, 4, 64, 64, 3, 1),
    (2, 5, 5, 130, 40, 1, 1),
    (2, 8, 8, 32, 96, 3, 2),
    (2, 8, 9, 24, 70, 5, 3),
    (1, 6, 6, 8, 5, 3, 1),
    (1, 6, 6, 9, 5, 2, 1),
    (1, 3, 50, 16, 130, 3, 1),
    (2, 2, 2, 256, 32, 3, 1),
]


def _signs(shape: tuple[int, ...], dtype: tf.DType, magnitude: float = 1.0, seed: int = 0):
    drawn = np.random.default_rng(seed).choice([-magnitude, magnitude], shape)
    return tf.constant(drawn, dtype)


def _numpy_conv(x: np.ndarray, kernel: np.ndarray, pad_value: float, stride: int) -> np.ndarray:
    """By the definition: a sum over each window, in float64."""
    padded = pad_same(tf.constant(x), kernel.shape[0], stride, pad_value).numpy()
    views = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
    return np.einsum("nhwcij,ijcf->nhwf", views[:, ::stride, ::stride], kernel)


@pytest.mark.parametrize("pad_value", [1.0, -1.0, 0.0])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_sums_are_exact(case, pad_value):
    n, h, w, channels, filters, k, stride = case
    x = _signs((n, h, w, channels), tf.float32)
    kernel = _signs((k, k, channels, filters), tf.float32, 0.5, seed=1)
    y = binary_conv(x, kernel, pad_value=pad_value, stride=stride, magnitude=0.5)
    wanted = _numpy_conv(x.numpy().astype(np.float64), kernel.numpy(), pad_value, stride)
    np.testing.assert_array_equal(y, wanted)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_in_bfloat16_sums_are_rounded_once(case):
    n, h, w, channels, filters, k, stride = case
    x = _signs((n, h, w, channels), tf.bfloat16)
    kernel = _signs((k, k, channels, filters), tf.bfloat16, seed=1)
    y = binary_conv(x, kernel, pad_value=1.0, stride=stride)
    wanted = _numpy_conv(
        tf.cast(x, tf.float64).numpy(), tf.cast(kernel, tf.float64).numpy(), 1.0, stride
    )
    np.testing.assert_array_equal(
        tf.cast(y, tf.float32), tf.cast(tf.cast(wanted, tf.bfloat16), tf.float32)
    )


def test_an_empty_batch_is_empty():
    y = binary_conv(
        tf.zeros([0, 4, 4, 8]), _signs((3, 3, 8, 5), tf.float32), pad_value=1.0, stride=2
    )
    assert y.shape == [0, 2, 2, 5]


def test_a_kernel_for_other_channels_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="takes a kernel"):
        binary_conv(
            tf.zeros([1, 4, 4, 8]), _signs((3, 3, 7, 5), tf.float32), pad_value=1.0, stride=1
        )


def test_it_knows_its_shape_in_a_graph():
    kernel = _signs((3, 3, 8, 5), tf.float32)

    @tf.function(input_signature=[tf.TensorSpec([None, 7, 9, 8])])
    def run(x):
        y = binary_conv(x, kernel, pad_value=1.0, stride=2)
        assert y.shape.as_list() == [None, 4, 5, 5]
        return y

    assert run(tf.ones([2, 7, 9, 8])).shape == [2, 4, 5, 5]


def _gradients(function, x: tf.Tensor, kernel: tf.Tensor, upstream: tf.Tensor):
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = function(x, kernel)
        loss = tf.reduce_sum(tf.cast(y * upstream, tf.float32))
    return tape.gradient(loss, [x, kernel])


@pytest.mark.parametrize("pad_value", [1.0, 0.0])
@pytest.mark.parametrize("case", [*CASES[:8], (2, 5, 7, 128, 130, 3, 1)], ids=str)
def test_gradients_are_those_of_the_plain_convolution(case, pad_value):
    n, h, w, channels, filters, k, stride = case
    x = _signs((n, h, w, channels), tf.float32)
    kernel = _signs((k, k, channels, filters), tf.float32, 0.5, seed=1)
    upstream = np.random.default_rng(2).normal(size=(n, -(-h // stride), -(-w // stride), filters))
    upstream = tf.constant(upstream, tf.float32)

    def plain(x, kernel):
        return tf.nn.conv2d(pad_same(x, k, stride, pad_value), kernel, stride, "VALID")

    wanted = _gradients(plain, x, kernel, upstream)
    for native in (
        lambda x, kernel: convolve_signs(x, kernel, pad_value, stride, 0.5),
        lambda x, kernel: convolve(x, kernel, pad_value, stride),
    ):
        for actual, expected in zip(_gradients(native, x, kernel, upstream), wanted, strict=True):
            bound = 1e-5 * np.abs(expected).max()
            np.testing.assert_allclose(actual, expected, rtol=0, atol=bound)


def test_the_shapes_lie_on_both_sides_of_winograds_bound():
    fewest = [min(case[3:5]) for case in CASES if case[5:] == (3, 1)]
    assert min(fewest) < WINOGRAD_CHANNELS <= max(fewest)


def test_gradients_in_bfloat16_are_rounded_and_no_more():
    for case in ((2, 6, 6, 64, 64, 3, 1), (2, 2, 2, 64, 64, 3, 1), (2, 8, 8, 64, 64, 3, 2)):
        n, h, w, channels, filters, k, stride = case
        found = {}
        for dtype in (tf.float32, tf.bfloat16):
            x = _signs((n, h, w, channels), dtype)
            kernel = _signs((k, k, channels, filters), dtype, seed=1)
            shape = (n, h // stride, w // stride, filters)
            upstream = tf.cast(np.random.default_rng(2).normal(size=shape), dtype)
            with tf.GradientTape() as tape:
                tape.watch([x, kernel])
                y = convolve_signs(x, kernel, 1.0, stride, 1.0)
            gradients = tape.gradient(y, [x, kernel], upstream)
            found[dtype] = [tf.cast(each, tf.float32).numpy() for each in gradients]
        for exact, rounded in zip(*found.values(), strict=True):
            assert 0 < np.abs(exact - rounded).max() / np.abs(exact).max() < 2**-6


@pytest.mark.parametrize("sides", [(8, 8), (5, 7), (1, 1), (2, 3), (1, 4)])
@pytest.mark.parametrize("channels", [(3, 5), (17, 64), (130, 1)])
@pytest.mark.parametrize("pad_value", [1.0, -1.0, 0.0])
def test_winograds_gradients_are_those_of_the_plain_convolution(sides, channels, pad_value):
    rng = np.random.default_rng(0)
    x = tf.constant(rng.normal(size=(2, *sides, channels[0])), tf.float32)
    kernel = tf.constant(rng.normal(size=(3, 3, *channels)), tf.float32)
    dy = tf.constant(rng.normal(size=(2, *sides, channels[1])), tf.float32)

    def plain(x, kernel):
        return tf.nn.conv2d(pad_same(x, 3, 1, pad_value), kernel, 1, "VALID")

    for actual, wanted in zip(
        winograd_gradients(x, kernel, dy, pad_value), _gradients(plain, x, kernel, dy), strict=True
    ):
        np.testing.assert_allclose(actual, wanted, rtol=0, atol=2e-5 * np.abs(wanted).max())

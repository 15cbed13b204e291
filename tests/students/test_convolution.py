import itertools

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.convolution import (
    KERNEL_GRADIENT_ROWS_UP_TO,
    ROWS_UP_TO,
    convolve,
    pad_same,
    same_padding,
    window_rows,
)

# (side, window, stride): on both sides of each bound, odd and even, and where rows are laid out.
SHAPES = [(1, 3, 1), (2, 3, 1), (2, 5, 1), (3, 3, 1), (4, 3, 2), (5, 3, 2), (8, 3, 1), (9, 3, 1),
          (16, 3, 2), (18, 3, 2), (6, 1, 1), (6, 1, 2)]  # fmt: skip


def _numpy(x: np.ndarray, kernel: np.ndarray, stride: int, pad_value: float) -> np.ndarray:
    """The convolution as four loops, in float64."""
    window = kernel.shape[0]
    out = -(-x.shape[1] // stride)
    total = max((out - 1) * stride + window - x.shape[1], 0)
    widths = [(0, 0), *[(total // 2, total - total // 2)] * 2, (0, 0)]
    padded = np.pad(x.astype(np.float64), widths, constant_values=pad_value)
    y = np.zeros((len(x), out, out, kernel.shape[3]))
    for i, j in itertools.product(range(out), repeat=2):
        for a, b in itertools.product(range(window), repeat=2):
            y[:, i, j] += padded[:, i * stride + a, j * stride + b] @ kernel[a, b]
    return y


def _case(side: int, window: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.choice([-1.0, 1.0], (2, side, side, 3)).astype(np.float32)
    kernel = rng.choice([-1.0, 1.0], (window, window, 3, 4)).astype(np.float32)
    return x, kernel, rng.uniform(0.1, 2, 4).astype(np.float32)


def test_the_shapes_lie_on_both_sides_of_the_bounds():
    outputs = {-(-side // stride) for side, window, stride in SHAPES if window > 1}
    for bound in (ROWS_UP_TO, KERNEL_GRADIENT_ROWS_UP_TO):
        assert {bound, bound + 1} <= outputs


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("pad_value", [1.0, 0.0])
@pytest.mark.parametrize(("side", "window", "stride"), SHAPES)
def test_forward_is_the_convolution(side, window, stride, pad_value, dtype):
    x, kernel, scale = _case(side, window)
    y = convolve(tf.cast(x, dtype), tf.cast(kernel, dtype), stride, pad_value, tf.constant(scale))
    assert y.dtype == tf.float32
    # +-1 operands: sums are small whole numbers, exact in bfloat16 too.
    np.testing.assert_allclose(y, _numpy(x, kernel, stride, pad_value) * scale, rtol=1e-6)


@pytest.mark.parametrize("scaled", [True, False])
@pytest.mark.parametrize(("side", "window", "stride"), SHAPES)
def test_gradients_are_those_of_tensorflows_convolution(side, window, stride, scaled):
    x, kernel, scale = map(tf.constant, _case(side, window))
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([x, kernel])
        quantized = kernel * scale if scaled else kernel
        ours = convolve(x, kernel, stride, 1.0, scale if scaled else None)
        plain = tf.nn.conv2d(pad_same(x, window, stride, 1.0), quantized, stride, "VALID")
        upstream = tf.constant(np.random.default_rng(5).normal(size=plain.shape), tf.float32)
        of_ours, of_plain = (tf.reduce_sum(y * upstream) for y in (ours, plain))
    pairs = zip(
        tape.gradient(of_ours, [x, kernel]), tape.gradient(of_plain, [x, quantized]), strict=True
    )
    for actual, expected in pairs:
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-4)


def test_gradients_in_bfloat16_are_rounded_and_no_more():
    x, kernel, scale = _case(4, 3)
    upstream = np.random.default_rng(1).normal(size=(2, 4, 4, 4)).astype(np.float32)
    gradients = {}
    for dtype in ("float32", "bfloat16"):
        operands = [tf.cast(x, dtype), tf.cast(kernel, dtype)]
        with tf.GradientTape() as tape:
            tape.watch(operands)
            loss = tf.reduce_sum(convolve(*operands, 1, 1.0, tf.constant(scale)) * upstream)
        gradients[dtype] = [tf.cast(g, tf.float32).numpy() for g in tape.gradient(loss, operands)]
    for exact, rounded in zip(gradients["float32"], gradients["bfloat16"], strict=True):
        error = np.abs(rounded - exact).max() / np.abs(exact).max()
        assert 0 < error < 2**-6


@pytest.mark.parametrize(("side", "window", "stride"), SHAPES)
def test_padding_is_that_of_same(side, window, stride):
    before, after = same_padding(side, window, stride)
    assert 0 <= after - before <= 1
    assert (side + before + after - window) // stride + 1 == -(-side // stride)


def test_rows_hold_the_windows_in_the_kernels_order():
    x = np.arange(2 * 4 * 4 * 3, dtype=np.float32).reshape(2, 4, 4, 3)
    rows = window_rows(tf.constant(x), 3, 1).numpy().reshape(2, 2, 2, 3, 3, 3)
    np.testing.assert_array_equal(rows[1, 0, 1], x[1, 0:3, 1:4])

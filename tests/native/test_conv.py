import numpy as np
import pytest
import tensorflow as tf

from candle_tf.native.ops import conv, conv_gradients
from tests.native.availability import needs_native

pytestmark = needs_native

# Batch, height, width, channels, filters, kernel, stride: sides below the kernel, odd channel
# counts, kernel positions that miss some or all pixels, more channels than are packed at a time,
# small maps of so many images that several tasks share them.
CASES = [
    (2, 5, 6, 3, 7, 3, 1),
    (1, 1, 1, 1, 1, 3, 1),
    (3, 7, 7, 17, 33, 3, 2),
    (2, 5, 5, 130, 40, 1, 1),
    (2, 8, 8, 32, 96, 3, 2),
    (2, 8, 9, 24, 70, 5, 3),
    (1, 6, 6, 9, 5, 2, 1),
    (2, 6, 6, 16, 8, 1, 2),
    (3, 2, 2, 256, 64, 3, 1),
    (1, 4, 4, 700, 50, 3, 2),
    (40, 32, 32, 3, 8, 3, 2),
    (256, 8, 8, 16, 16, 3, 2),
    (460, 6, 6, 8, 8, 3, 2),
]
# Largest error over the largest value: of float32 sums, and of operands and results in bfloat16.
BOUNDS = {tf.float32: 2e-5, tf.bfloat16: 2**-7}


def _normal(shape: tuple[int, ...], dtype: tf.DType, seed: int) -> tf.Tensor:
    drawn = np.random.default_rng(seed).normal(size=shape)
    return tf.cast(tf.cast(drawn, dtype), dtype)


def _reference(x, kernel, dy, pad_value: float, stride: int) -> tuple[np.ndarray, ...]:
    """Output and both gradients in float64, by the definition, for each kernel position."""
    x, kernel, dy = (tf.cast(each, tf.float64).numpy() for each in (x, kernel, dy))
    window = len(kernel)
    sides = []
    for side in x.shape[1:3]:
        total = max((-(-side // stride) - 1) * stride + window - side, 0)
        sides.append((total // 2, total - total // 2))
    padded = np.pad(x, [(0, 0), *sides, (0, 0)], constant_values=pad_value)
    y, to_padded, to_kernel = np.zeros_like(dy), np.zeros_like(padded), np.zeros_like(kernel)
    for a in range(window):
        for b in range(window):
            seen = np.s_[
                :,
                a : a + stride * (dy.shape[1] - 1) + 1 : stride,
                b : b + stride * (dy.shape[2] - 1) + 1 : stride,
            ]
            y += padded[seen] @ kernel[a, b]
            to_padded[seen] += dy @ kernel[a, b].T
            to_kernel[a, b] = np.einsum("nhwc,nhwf->cf", padded[seen], dy)
    (top, _), (left, _) = sides
    return y, to_padded[:, top : top + x.shape[1], left : left + x.shape[2]], to_kernel


@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("pad_value", [1.0, 0.0, -0.5])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients_are_those_of_the_definition(case, pad_value, dtype):
    n, h, w, channels, filters, k, stride = case
    x = _normal((n, h, w, channels), dtype, 0)
    kernel = _normal((k, k, channels, filters), dtype, 1)
    dy = _normal((n, -(-h // stride), -(-w // stride), filters), dtype, 2)
    ours = [
        conv(x, kernel, pad_value=pad_value, stride=stride),
        *conv_gradients(x, kernel, dy, pad_value=pad_value, stride=stride),
    ]
    for actual, wanted in zip(ours, _reference(x, kernel, dy, pad_value, stride), strict=True):
        assert actual.dtype == dtype
        assert np.abs(tf.cast(actual, tf.float64) - wanted).max() <= BOUNDS[dtype] * max(
            np.abs(wanted).max(), 1e-6
        )


def test_an_empty_batch_has_no_output_and_no_gradient():
    x, dy = tf.zeros([0, 4, 4, 5]), tf.zeros([0, 2, 2, 6])
    kernel = _normal((3, 3, 5, 6), tf.float32, 0)
    assert conv(x, kernel, pad_value=1.0, stride=2).shape == [0, 2, 2, 6]
    to_x, to_kernel = conv_gradients(x, kernel, dy, pad_value=1.0, stride=2)
    assert to_x.shape == x.shape
    np.testing.assert_array_equal(to_kernel, tf.zeros_like(kernel))


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_no_number_stays_where_it_is_read(broken):
    x = np.ones((1, 5, 5, 3), np.float32)
    x[0, 0, 0, 1] = broken
    kernel = tf.ones([3, 3, 3, 2])
    y = conv(tf.constant(x), kernel, pad_value=0.0, stride=1).numpy()
    finite = np.isfinite(y[0, ..., 0])
    assert not finite[:2, :2].any()
    assert finite.sum() == 25 - 4
    _, to_kernel = conv_gradients(
        tf.constant(x), kernel, tf.ones([1, 5, 5, 2]), pad_value=0.0, stride=1
    )
    assert not np.isfinite(to_kernel[0, 0, 1]).any()
    assert np.isfinite(to_kernel[:, :, 0]).all()


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="output's shape"):
        conv_gradients(
            tf.zeros([1, 4, 4, 2]),
            tf.zeros([3, 3, 2, 2]),
            tf.zeros([1, 3, 4, 2]),
            pad_value=1.0,
            stride=1,
        )

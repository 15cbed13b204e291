import numpy as np
import pytest
import tensorflow as tf

from candle_tf.native import convolution
from candle_tf.native.ops import binary_conv, sign_conv_gradients
from tests.native.availability import needs_native

pytestmark = needs_native

MAGNITUDE = 0.5
# Batch, height, width, channels, filters, kernel, stride: numbers that are no multiples of a
# table's 5 values, a word's 15 signs or a vector's 32; several blocks of columns; more filters, and
# more images, than one segment holds; maps of several chunks.
CASES = [
    (1, 1, 1, 1, 1, 1, 1),
    (3, 5, 4, 7, 9, 3, 1),
    (7, 6, 6, 40, 130, 3, 2),
    (33, 4, 4, 130, 70, 3, 1),
    (3, 3, 3, 200, 1100, 1, 1),
    (20, 9, 7, 17, 33, 3, 2),
    (9, 24, 24, 33, 40, 3, 1),
    (600, 2, 2, 16, 64, 3, 1),
]
# Root of the mean square of the error over that of the gradient: the rounding of dy to integers,
# and of the results to bfloat16.
BOUNDS = {tf.float32: 0.003, tf.bfloat16: 0.004}


def _signs(shape: tuple[int, ...], seed: int) -> np.ndarray:
    return np.random.default_rng(seed).choice([-1.0, 1.0], shape)


def _reference(x, kernel, dy, pad_value: float, stride: int) -> tuple[np.ndarray, np.ndarray]:
    """The gradients in float64, kernel position by kernel position."""
    window, (_, height, width, _) = len(kernel), x.shape
    before = [
        max(0, (out - 1) * stride + window - side) // 2
        for out, side in zip(dy.shape[1:3], x.shape[1:3], strict=True)
    ]
    around = [(0, 0), *((each, window + stride) for each in before), (0, 0)]
    padded = np.pad(x, around, constant_values=pad_value)
    to_padded, to_kernel = np.zeros_like(padded), np.zeros_like(kernel)
    rows, columns = (stride * (out - 1) + 1 for out in dy.shape[1:3])
    for i, j in np.ndindex(window, window):
        seen = np.s_[:, i : i + rows : stride, j : j + columns : stride]
        to_padded[seen] += dy @ kernel[i, j].T
        to_kernel[i, j] = np.einsum("nhwc,nhwf->cf", padded[seen], dy)
    top, left = before
    return to_padded[:, top : top + height, left : left + width], to_kernel


def _case(case, seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    n, h, w, channels, filters, k, stride = case
    rng = np.random.default_rng(seed)
    # Images' gradients differ in size, as those of easy and hard ones do.
    sizes = np.exp(rng.normal(size=(n, 1, 1, 1)))
    dy = rng.normal(size=(n, -(-h // stride), -(-w // stride), filters)) * sizes
    kernel = MAGNITUDE * _signs((k, k, channels, filters), seed + 1)
    return _signs((n, h, w, channels), seed + 2), kernel, dy


def _gradients(x, kernel, dy, pad_value: float, stride: int, dtype=tf.float32):
    found = sign_conv_gradients(
        *(tf.cast(tf.constant(each), dtype) for each in (x, kernel, dy)),
        pad_value=pad_value,
        stride=stride,
        magnitude=MAGNITUDE,
    )
    assert all(each.dtype == dtype for each in found)
    return [tf.cast(each, tf.float64).numpy() for each in found]


@pytest.mark.parametrize("dtype", BOUNDS, ids=lambda dtype: dtype.name)
@pytest.mark.parametrize("pad_value", [1.0, 0.0, -1.0])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_output_and_gradients_are_those_of_the_definition(case, pad_value, dtype):
    x, kernel, dy = _case(case)
    rounded = tf.cast(tf.cast(tf.constant(dy), dtype), tf.float64).numpy()
    wanted = _reference(x, kernel, rounded, pad_value, case[-1])
    for ours, theirs in zip(
        _gradients(x, kernel, dy, pad_value, case[-1], dtype), wanted, strict=True
    ):
        assert ours.shape == theirs.shape
        error = np.sqrt(np.mean((ours - theirs) ** 2))
        assert error <= BOUNDS[dtype] * np.sqrt(np.mean(theirs**2))


def test_sums_of_equal_signs_stay_within_their_integers():
    # The largest sums there are: all products of a segment are positive.
    case = (64, 4, 4, 96, 520, 3, 1)
    x, kernel, dy = (np.abs(each) for each in _case(case))
    x, kernel = np.ones_like(x), np.full_like(kernel, MAGNITUDE)
    for sign in (1, -1):
        ours = _gradients(x, kernel, sign * dy, 0.0, 1)
        for got, wanted in zip(ours, _reference(x, kernel, sign * dy, 0.0, 1), strict=True):
            np.testing.assert_allclose(got, wanted, rtol=1e-3)


def test_small_gradients_beside_large_ones_keep_their_precision():
    # Images, and filters, that differ by six powers of ten have scales of their own.
    x, kernel, dy = _case((4, 4, 4, 64, 64, 3, 1))
    dy[1] *= 1e-6
    to_x, _ = _gradients(x, kernel, dy, 1.0, 1)
    wanted, _ = _reference(x, kernel, dy, 1.0, 1)
    assert np.abs(to_x[1] - wanted[1]).max() <= 0.01 * np.abs(wanted[1]).max()
    dy[..., 3] *= 1e-6
    _, to_kernel = _gradients(x, kernel, dy, 1.0, 1)
    _, wanted = _reference(x, kernel, dy, 1.0, 1)
    assert np.abs(to_kernel - wanted)[..., 3].max() <= 0.01 * np.abs(wanted[..., 3]).max()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_what_is_no_number_is_seen_where_it_is_read_and_nowhere_else(broken):
    x, kernel, dy = _case((2, 6, 6, 40, 40, 3, 1))
    dy[1, 0, 0, 7] = broken
    to_x, to_kernel = _gradients(x, kernel, dy, 1.0, 1)
    assert np.isfinite(to_x[0]).all()
    assert not np.isfinite(to_x[1, :2, :2]).any()
    assert np.isfinite(to_x[1, 2:]).all()
    assert np.isfinite(to_x[1, :, 2:]).all()
    assert not np.isfinite(to_kernel[..., 7]).any()
    assert np.isfinite(np.delete(to_kernel, 7, axis=-1)).all()


def test_no_gradient_and_a_vanishing_one_give_zeros():
    x, kernel, dy = _case((2, 3, 3, 40, 40, 3, 1))
    for scale in (0.0, 1e-38):
        for each in _gradients(x, kernel, scale * dy, 1.0, 1):
            np.testing.assert_allclose(each, 0.0, atol=1e-30)


@pytest.mark.parametrize("shape", [(0, 4, 4), (2, 0, 4), (2, 4, 0)], ids=str)
def test_an_empty_map_gives_a_kernel_no_gradient(shape):
    x, kernel, dy = _case((*shape, 40, 40, 3, 1))
    to_x, to_kernel = _gradients(x, kernel, dy, 1.0, 1)
    assert to_x.shape == x.shape
    np.testing.assert_array_equal(to_kernel, np.zeros_like(kernel))


def test_a_gradient_of_another_shape_is_refused():
    with pytest.raises(tf.errors.InvalidArgumentError, match="convolution's shape"):
        sign_conv_gradients(
            tf.zeros([1, 4, 4, 2]),
            tf.zeros([3, 3, 2, 2]),
            tf.zeros([1, 3, 4, 2]),
            pad_value=1.0,
            stride=1,
        )


@pytest.mark.parametrize(
    ("fast", "dtype"), [(True, tf.bfloat16), (True, tf.float32), (False, tf.bfloat16)]
)
def test_float32_and_other_cpus_keep_exact_products(fast, dtype, monkeypatch):
    used = []

    def note(*args, **kwargs):
        used.append(True)
        return sign_conv_gradients(*args, **kwargs)

    monkeypatch.setattr(convolution, "has_fast_lookups", lambda: fast)
    monkeypatch.setattr(convolution, "sign_conv_gradients", note)
    x, kernel, dy = (tf.cast(tf.constant(each), dtype) for each in _case((2, 4, 4, 64, 64, 3, 1)))
    with tf.GradientTape() as tape:
        tape.watch([x, kernel])
        y = convolution.convolve_signs(x, kernel, 1.0, 1, MAGNITUDE)
    np.testing.assert_array_equal(
        y.numpy(), binary_conv(x, kernel, pad_value=1.0, stride=1, magnitude=MAGNITUDE).numpy()
    )
    found = tape.gradient(y, [x, kernel], dy)
    assert used == ([True] if fast and dtype == tf.bfloat16 else [])
    maps = [tf.cast(each, tf.float64).numpy() for each in (x, kernel, dy)]
    for ours, theirs in zip(found, _reference(*maps, 1.0, 1), strict=True):
        error = np.sqrt(np.mean((tf.cast(ours, tf.float64) - theirs) ** 2))
        assert error <= (0.01 if dtype == tf.bfloat16 else 1e-5) * np.sqrt(np.mean(theirs**2))

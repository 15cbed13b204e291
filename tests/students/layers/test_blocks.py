import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.layers.blocks import RPReLU, Shift, batch_norm, binary_conv, is_binary_conv

SHAPE = (2, 3, 4, 5)


def _rprelu(seed: int = 0) -> RPReLU:
    layer = RPReLU()
    layer.build(tf.TensorShape(SHAPE))
    rng = np.random.default_rng(seed)
    for variable in layer.trainable_variables:
        variable.assign(rng.normal(0, 0.6, variable.shape))
    return layer


def _inputs(seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def test_shift_adds_one_offset_per_channel():
    layer = Shift()
    x = _inputs()
    np.testing.assert_array_equal(layer(x), x)
    offset = np.arange(5, dtype=np.float32) - 2
    layer.offset.assign(offset)
    np.testing.assert_allclose(layer(x), x + offset, rtol=1e-6)
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer(x) * tf.constant(x))
    np.testing.assert_allclose(tape.gradient(total, layer.offset), x.sum((0, 1, 2)), rtol=1e-5)


def test_rprelu_starts_as_a_prelu_of_slope_one_quarter():
    x = _inputs()
    np.testing.assert_allclose(RPReLU()(x), np.where(x > 0, x, 0.25 * x), rtol=1e-6)


def test_rprelu_forward():
    layer, x = _rprelu(), _inputs()
    shift_in, slope, shift_out = (
        variable.numpy().reshape(-1).astype(np.float64)
        for variable in (layer.shift_in, layer.slope, layer.shift_out)
    )
    shifted = x + shift_in
    expected = np.where(shifted > 0, shifted, slope * shifted) + shift_out
    np.testing.assert_allclose(layer(x), expected, rtol=1e-5, atol=1e-6)
    assert slope.min() < 0 < slope.max()


@pytest.mark.parametrize("which", ["inputs", "shift_in", "slope", "shift_out"])
def test_rprelu_backward_by_finite_differences(which):
    layer, x = _rprelu(), _inputs()
    # The kink has no derivative: keep every point further from it than the step of the differences.
    near = np.abs(x + layer.shift_in.numpy()) < 0.02
    x = np.where(near, x + 0.1, x).astype(np.float32)
    upstream = np.random.default_rng(2).normal(size=SHAPE)
    target = tf.Variable(x) if which == "inputs" else getattr(layer, which)

    def value() -> float:
        inputs = target.value() if which == "inputs" else tf.constant(x)
        return float(np.sum(layer(inputs).numpy().astype(np.float64) * upstream))

    with tf.GradientTape() as tape:
        inputs = target if which == "inputs" else tf.constant(x)
        total = tf.reduce_sum(layer(inputs) * tf.constant(upstream, tf.float32))
    gradient = tape.gradient(total, target).numpy()

    start = target.numpy()
    numerical = np.zeros(start.size)
    for index in range(start.size):
        ends = []
        for step in (-0.01, 0.01):
            moved = start.copy().reshape(-1)
            moved[index] += step
            target.assign(moved.reshape(start.shape))
            ends.append(value())
        numerical[index] = (ends[1] - ends[0]) / 0.02
    np.testing.assert_allclose(gradient.reshape(-1), numerical, atol=5e-3)


def _conv_by_hand(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """A convolution with "same" geometry as TensorFlow's, the border filled with +1."""
    side = kernel.shape[0]
    height, width = (-(-size // stride) for size in x.shape[1:3])
    pads = [
        max((out - 1) * stride + side - size, 0)
        for out, size in zip((height, width), x.shape[1:3], strict=True)
    ]
    before = [pad // 2 for pad in pads]
    padded = np.pad(
        x,
        [(0, 0), *((b, pad - b) for b, pad in zip(before, pads, strict=True)), (0, 0)],
        constant_values=1.0,
    )
    result = np.empty((len(x), height, width, kernel.shape[-1]))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            patch = padded[:, top : top + side, left : left + side]
            result[:, row, column] = np.tensordot(patch, kernel, axes=3)
    return result


@pytest.mark.parametrize("size", [7, 8])
@pytest.mark.parametrize(("side", "stride"), [(1, 1), (3, 1), (3, 2)])
def test_binary_conv(size, side, stride):
    rng = np.random.default_rng(0)
    signs = rng.choice([-1.0, 1.0], (2, size, size, 4)).astype(np.float32)
    inputs = tf.keras.Input((size, size, 4))
    model = tf.keras.Model(inputs, binary_conv(inputs, 6, side, stride, "conv"))
    kernel = rng.normal(0, 0.4, (side, side, 4, 6))
    model.set_weights([kernel])
    alpha = np.abs(kernel).mean(axis=(0, 1, 2))
    expected = _conv_by_hand(signs, np.where(kernel >= 0, alpha, -alpha), stride)
    np.testing.assert_allclose(model(signs), expected, rtol=1e-4, atol=1e-5)
    assert len(model.trainable_variables) == 1


def test_batch_norm_has_pytorchs_usual_constants():
    inputs = tf.keras.Input((4, 4, 3))
    layer = tf.keras.Model(inputs, batch_norm(inputs, "bn")).get_layer("bn")
    x = np.random.default_rng(0).normal(3, 2, (8, 4, 4, 3)).astype(np.float32)
    layer(x, training=True)
    np.testing.assert_allclose(layer.moving_mean, 0.1 * x.mean((0, 1, 2)), rtol=1e-4)
    variance = layer.moving_variance.numpy()
    np.testing.assert_allclose(variance, 0.9 + 0.1 * x.var((0, 1, 2)), rtol=0.01)
    assert layer.epsilon == 1e-5


def test_only_convolutions_with_a_one_bit_kernel_are_binary():
    inputs = tf.keras.Input((4, 4, 3))
    x = tf.keras.layers.Conv2D(8, 3, name="float")(inputs)
    model = tf.keras.Model(inputs, binary_conv(x, 8, 1, 1, "binary"))
    assert [layer.name for layer in model.layers if is_binary_conv(layer)] == ["binary"]

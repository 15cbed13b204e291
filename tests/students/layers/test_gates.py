from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.layers.gates import Mix, gate

SHAPE = (2, 3, 4, 16)


def _tensor(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)


def _mix(seed: int = 0) -> Mix:
    layer = Mix()
    layer.build([tf.TensorShape(SHAPE)] * 2)
    layer.share.assign(np.random.default_rng(seed).uniform(0, 1, SHAPE[-1]))
    return layer


def test_mix_starts_as_the_mean_of_both():
    a, b = _tensor(1), _tensor(2)
    np.testing.assert_allclose(Mix()([a, b]), (a + b) / 2, rtol=1e-4, atol=1e-6)


def test_mix_forward():
    layer, a, b = _mix(), _tensor(1), _tensor(2)
    share = layer.share.numpy().astype(np.float64)
    np.testing.assert_allclose(layer([a, b]), share * a + (1 - share) * b, rtol=1e-4, atol=1e-6)
    layer.share.assign(np.eye(1, SHAPE[-1])[0])
    mixed = layer([a, b]).numpy()
    np.testing.assert_allclose(mixed[..., 0], a[..., 0], rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(mixed[..., 1:], b[..., 1:])


def test_mix_backward():
    """y is linear in each argument, so its gradients are the other factors."""
    layer, upstream = _mix(), _tensor(3)
    a, b = tf.Variable(_tensor(1)), tf.Variable(_tensor(2))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(layer([a, b]) * upstream)
    to_a, to_b, to_share = tape.gradient(total, [a, b, layer.share])
    share = layer.share.numpy()
    np.testing.assert_allclose(to_a, share * upstream, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(to_b, (1 - share) * upstream, rtol=1e-5, atol=1e-6)
    expected = ((a.numpy() - b.numpy()) * upstream).sum(axis=(0, 1, 2))
    np.testing.assert_allclose(to_share, expected, rtol=1e-4, atol=1e-5)


def test_shares_are_clipped_to_0_and_1_by_the_optimizer():
    layer = _mix()
    step = np.where(np.arange(SHAPE[-1]) % 2, 5.0, -5.0).astype(np.float32)
    optimizer = tf.keras.optimizers.SGD(1.0)
    optimizer.apply_gradients([(tf.constant(step), layer.share)])
    np.testing.assert_array_equal(layer.share, np.where(step > 0, 0.0, 1.0))


def _gate_model(seed: int = 0) -> tf.keras.Model:
    inputs = tf.keras.Input(SHAPE[1:])
    model = tf.keras.Model(inputs, gate(inputs, "unit"))
    rng = np.random.default_rng(seed)
    model.set_weights([rng.normal(0, 1.0, weight.shape) for weight in model.get_weights()])
    return model


def _gate_by_hand(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    reduce, reduce_bias, excite, excite_bias = weights
    y = x.mean(axis=(1, 2)) @ reduce[0, 0] + reduce_bias
    y = np.maximum(y, 0) @ excite[0, 0] + excite_bias
    return (1 / (1 + np.exp(-y)))[:, None, None]


def _float64(arrays: list[np.ndarray]) -> list[np.ndarray]:
    return [array.astype(np.float64) for array in arrays]


def test_gate_forward():
    model, x = _gate_model(), _tensor(4)
    expected = _gate_by_hand(x.astype(np.float64), _float64(model.get_weights()))
    actual = model(x).numpy()
    assert actual.shape == (2, 1, 1, 16)
    np.testing.assert_allclose(actual, expected, rtol=1e-4)


def test_gate_has_an_eighth_of_the_channels_inside():
    assert [weight.shape for weight in _gate_model().get_weights()] == [
        (1, 1, 16, 2), (2,), (1, 1, 2, 16), (16,)
    ]  # fmt: skip


def _numerical(function: Callable[[np.ndarray], float], at: np.ndarray) -> np.ndarray:
    """Central differences in float64, one coordinate after the other."""
    result = np.empty(at.size)
    for index in range(at.size):
        step = np.zeros(at.size)
        step[index] = 1e-5
        step = step.reshape(at.shape)
        result[index] = (function(at + step) - function(at - step)) / 2e-5
    return result.reshape(at.shape)


@pytest.mark.parametrize("which", range(5))
def test_gate_backward_by_finite_differences(which):
    """The input (0) and each of the four weights."""
    model, x = _gate_model(), tf.Variable(_tensor(4))
    upstream = np.random.default_rng(5).normal(size=(2, 1, 1, 16))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(x) * tf.constant(upstream, tf.float32))
    actual = tape.gradient(total, [x, *model.trainable_variables][which])
    arrays = _float64([x.numpy(), *model.get_weights()])

    def value(moved: np.ndarray) -> float:
        inputs, *weights = [*arrays[:which], moved, *arrays[which + 1 :]]
        return float((_gate_by_hand(inputs, weights) * upstream).sum())

    expected = _numerical(value, arrays[which])
    assert np.abs(expected).max() > 1e-3
    np.testing.assert_allclose(actual, expected, rtol=1e-3, atol=1e-5)

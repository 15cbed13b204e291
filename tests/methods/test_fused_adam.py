import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.fused_adam import FusedAdam

OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"clipnorm": 0.5},
    {"amsgrad": True},
    {"beta_1": 0.5, "epsilon": 1e-3},
]


def _gradients(steps: int, shape: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(steps, *shape)).astype(np.float32)


def _train(optimizer, gradients: np.ndarray, constraint=None) -> np.ndarray:
    variable = tf.Variable(np.linspace(-1, 1, 12).reshape(3, 4).astype(np.float32))
    variable._constraint = constraint
    optimizer.build([variable])
    step = tf.function(lambda g: optimizer.apply_gradients([(g, variable)]))
    for gradient in gradients:
        step(tf.constant(gradient))
    return variable.numpy()


def _numpy_adam(gradients: np.ndarray, rate: float) -> np.ndarray:
    """Kingma & Ba, algorithm 1, with epsilon where TensorFlow has it (their section 2)."""
    weights = np.linspace(-1, 1, 12).reshape(3, 4)
    m = v = np.zeros_like(weights)
    for t, gradient in enumerate(gradients.astype(np.float64), start=1):
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        rate_t = rate * np.sqrt(1 - 0.999**t) / (1 - 0.9**t)
        weights = weights - rate_t * m / (np.sqrt(v) + 1e-7)
    return weights


def test_it_is_adam():
    gradients = _gradients(20, (3, 4))
    actual = _train(FusedAdam(0.01, jit_compile=False), gradients)
    np.testing.assert_allclose(actual, _numpy_adam(gradients, 0.01), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_kerass_adam_with_every_option(options):
    gradients = _gradients(20, (3, 4))
    rate = tf.keras.optimizers.schedules.CosineDecay(0.05, 15)
    ours = _train(FusedAdam(rate, jit_compile=False, **options), gradients)
    keras = _train(tf.keras.optimizers.Adam(rate, jit_compile=False, **options), gradients)
    np.testing.assert_allclose(ours, keras, rtol=1e-4, atol=1e-6)


def test_constraints_hold_after_each_step():
    clip = lq.constraints.WeightClip(0.25)
    weights = _train(FusedAdam(0.1, jit_compile=False), _gradients(5, (3, 4)), clip)
    assert np.abs(weights).max() <= 0.25


def test_sparse_gradients_move_the_rows_they_name():
    variable = tf.Variable(tf.ones([4, 2]))
    optimizer = FusedAdam(0.1, jit_compile=False)
    optimizer.build([variable])
    gradient = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([2]), tf.constant([4, 2]))
    optimizer.apply_gradients([(gradient, variable)])
    np.testing.assert_allclose(variable, [[1, 1], [1, 1], [0.9, 0.9], [1, 1]], atol=1e-5)


def test_a_checkpoint_of_kerass_adam_is_read_back(tmp_path):
    gradients = _gradients(6, (3, 4))
    states = {}
    for name, kind in (("keras", tf.keras.optimizers.Adam), ("fused", FusedAdam)):
        variable = tf.Variable(tf.zeros([3, 4]))
        optimizer = kind(0.01, jit_compile=False)
        optimizer.build([variable])
        states[name] = variable, optimizer
    variable, optimizer = states["keras"]
    for gradient in gradients:
        optimizer.apply_gradients([(tf.constant(gradient), variable)])
    path = tf.train.Checkpoint(variable=variable, optimizer=optimizer).write(str(tmp_path / "c"))
    other, fused = states["fused"]
    tf.train.Checkpoint(variable=other, optimizer=fused).read(path).assert_consumed()
    for v, o in states.values():
        o.apply_gradients([(tf.constant(gradients[0]), v)])
    np.testing.assert_allclose(other, variable, rtol=1e-5)
    assert int(fused.iterations) == 7

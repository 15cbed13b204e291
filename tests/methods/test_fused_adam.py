import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.fused_adam import FusedAdam
from tests.native.availability import needs_native

OPTIONS = [
    {},
    {"weight_decay": 0.1},
    {"clipnorm": 0.5},
    {"global_clipnorm": 0.5},
    {"use_ema": True},
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


@pytest.fixture(params=["plain", pytest.param("native", marks=needs_native)])
def fused_adam(request):
    """Makes the optimizer, with and without the native operator."""

    def make(*args, **options) -> FusedAdam:
        optimizer = FusedAdam(*args, jit_compile=False, **options)
        optimizer.native = request.param == "native"
        return optimizer

    return make


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


def test_it_is_adam(fused_adam):
    gradients = _gradients(20, (3, 4))
    actual = _train(fused_adam(0.01), gradients)
    np.testing.assert_allclose(actual, _numpy_adam(gradients, 0.01), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_it_is_kerass_adam_with_every_option(options, fused_adam):
    gradients = _gradients(20, (3, 4))
    rate = tf.keras.optimizers.schedules.CosineDecay(0.05, 15)
    ours = _train(fused_adam(rate, **options), gradients)
    keras = _train(tf.keras.optimizers.Adam(rate, jit_compile=False, **options), gradients)
    np.testing.assert_allclose(ours, keras, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    "clip", [lq.constraints.WeightClip(0.25), tf.keras.constraints.MaxNorm(0.2)]
)
def test_constraints_hold_after_each_step(clip, fused_adam):
    weights = _train(fused_adam(0.1), _gradients(5, (3, 4)), clip)
    assert np.abs(weights).max() <= 0.25


def test_sparse_gradients_move_the_rows_they_name(fused_adam):
    variable = tf.Variable(tf.ones([4, 2]))
    optimizer = fused_adam(0.1)
    optimizer.build([variable])
    gradient = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([2]), tf.constant([4, 2]))
    optimizer.apply_gradients([(gradient, variable)])
    np.testing.assert_allclose(variable, [[1, 1], [1, 1], [0.9, 0.9], [1, 1]], atol=1e-5)


def test_a_checkpoint_of_kerass_adam_is_read_back(tmp_path, fused_adam):
    gradients = _gradients(6, (3, 4))
    states = {}
    for name, kind in (("keras", tf.keras.optimizers.Adam), ("fused", fused_adam)):
        variable = tf.Variable(tf.zeros([3, 4]))
        optimizer = kind(0.01)
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


@needs_native
def test_all_variables_move_at_once_whatever_is_read_of_them():
    rng = np.random.default_rng(0)
    shapes = ((3, 4), (1,), (200, 333), (7,))
    starts = [rng.normal(size=shape).astype(np.float32) for shape in shapes]
    found = {}
    for native in (False, True):
        variables = [tf.Variable(start) for start in starts]
        optimizer = FusedAdam(0.01, jit_compile=False)
        optimizer.native = native
        optimizer.build(variables)

        @tf.function
        def step(variables=variables, optimizer=optimizer):
            before = [variable.read_value() for variable in variables]
            gradients = [tf.sin(value) for value in before[:-1]]
            optimizer.apply_gradients(zip([*gradients, None], variables, strict=True))
            return before

        before = step()
        step()
        for value, start in zip(before, starts, strict=True):
            np.testing.assert_array_equal(value, start)
        found[native] = [variable.numpy() for variable in variables]
    for plain, native in zip(found[False], found[True], strict=True):
        np.testing.assert_allclose(native, plain, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(found[True][-1], starts[-1])


def test_weight_decay_leaves_excluded_variables_alone(fused_adam):
    start = np.array([2.0, -1.0], np.float32)
    decayed, excluded = tf.Variable(start), tf.Variable(start)
    optimizer = fused_adam(0.1, weight_decay=0.5)
    optimizer.exclude_from_weight_decay([excluded])
    optimizer.build([decayed, excluded])
    nothing = tf.zeros([2])
    optimizer.apply_gradients([(nothing, decayed), (nothing, excluded)])
    # The rate times the decay, as in AdamW (Loshchilov & Hutter 2019, algorithm 2).
    np.testing.assert_allclose(decayed, start * (1 - 0.1 * 0.5), rtol=1e-6)
    np.testing.assert_array_equal(excluded, start)


@needs_native
def test_what_is_not_finite_is_not_hidden_by_the_clipping():
    variable = tf.Variable(tf.ones([3]))
    variable._constraint = lq.constraints.WeightClip(0.5)
    optimizer = FusedAdam(0.1, jit_compile=False)
    optimizer.native = True
    optimizer.build([variable])
    optimizer.apply_gradients([(tf.constant([1.0, np.nan, -1.0]), variable)])
    np.testing.assert_array_equal(np.isnan(variable.numpy()), [False, True, False])

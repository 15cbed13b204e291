import ml_dtypes
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.native.ops import Activation, Branch, SignOf, norm_chain
from tests.native.availability import needs_native
from tests.native.numpy_chain import EPSILON, Case, Result, draw_case, numpy_chain

pytestmark = needs_native

SHAPES = [
    (4, 8, 8, 32),
    (3, 5, 7, 17),
    (2, 3, 3, 130),
    (5, 4, 4, 1),
    (2, 9, 5, 3),
    (1, 6, 6, 64),
    (7, 1, 1, 7),
    (130, 8),
]
CHAINS = {
    "norm": {},
    "norm and sum": {"shortcut": True},
    "rprelu and sign": {"shortcut": True, "activation": True, "sign": True},
    "clipped sign": {"shortcut": True, "sign": True, "clip": 1.25},
    "sign alone": {"sign": True},
    "prelu": {"activation": True},
    "relu before": {"shortcut": True, "sign": True, "relu": True, "clip": 1.0},
    "branches": {"shortcut": True, "activation": True, "branches": 3},
    "branches and sign": {"activation": True, "sign": True, "branches": 2},
}


def native_chain(case: Case, activation: bool, sign: bool, clip: float | None, relu: bool):
    """Outputs, statistics and gradients of the operator, as NumPy arrays."""
    dtype = tf.as_dtype(case.xs[0].dtype)
    xs = [tf.constant(x) for x in case.xs]
    parameters = {name: tf.constant(value) for name, value in case.parameters.items()}
    shortcut = None if case.shortcut is None else tf.constant(case.shortcut)
    watched = {f"x{k}": x for k, x in enumerate(xs)} | parameters
    watched |= {} if shortcut is None else {"shortcut": shortcut}
    with tf.GradientTape() as tape:
        tape.watch(list(watched.values()))
        branches = [
            Branch(x, *(parameters[f"{name}{k}"] for name in ("gamma", "beta", "scale")))
            for k, x in enumerate(xs)
        ]
        learned = (parameters["shift_in"], parameters["slope"], parameters["shift_out"])
        chain = norm_chain(
            branches,
            epsilon=EPSILON,
            relu=relu,
            shortcut=shortcut,
            activation=Activation(*learned) if activation else None,
            sign=SignOf(parameters["shift"], dtype, clip) if sign else None,
        )
        loss = tf.reduce_sum(chain.y * case.dy)
        if sign:
            loss += tf.reduce_sum(tf.cast(chain.signs * tf.constant(case.d_signs), tf.float32))
    gradients = tape.gradient(loss, watched)
    given = {name: g.numpy() for name, g in gradients.items() if g is not None}
    return Result(chain.y.numpy(), chain.signs.numpy(), given), chain


def _options(chain: dict) -> tuple[dict, dict]:
    """How a case is drawn, and how it is computed."""
    of_case = {"shortcut": chain.get("shortcut", False), "branches": chain.get("branches", 1)}
    of_chain = {name: chain.get(name, False) for name in ("activation", "sign", "relu")}
    return of_case, {**of_chain, "clip": chain.get("clip")}


def _assert_close(actual: np.ndarray, wanted: np.ndarray, tolerance: float, what: str) -> None:
    actual, wanted = actual.astype(np.float64), wanted.astype(np.float64)
    assert actual.shape == wanted.shape, what
    np.testing.assert_allclose(
        actual, wanted, rtol=0, atol=tolerance * max(np.abs(wanted).max(), 1e-3), err_msg=what
    )


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16], ids=["float32", "bfloat16"])
def test_outputs_and_gradients_are_those_of_float64(name, shape, dtype):
    of_case, of_chain = _options(CHAINS[name])
    case = draw_case(shape, dtype=dtype, **of_case)
    wanted = numpy_chain(case, **of_chain)
    actual, _ = native_chain(case, **of_chain)
    _assert_close(actual.y, wanted.y, 3e-6, "y")
    if of_chain["sign"]:
        # Where rounding decides the sign, both are right.
        sure = np.abs(wanted.y + case.parameters["shift"]) > 1e-5
        np.testing.assert_array_equal(
            actual.signs.astype(np.float64)[sure], wanted.signs[sure], err_msg="signs"
        )
    assert wanted.gradients.keys() <= actual.gradients.keys()
    for key, gradient in wanted.gradients.items():
        half = dtype is not np.float32 and key.startswith("x")
        tolerance = 4e-3 if half else 3e-5
        _assert_close(actual.gradients[key], gradient, tolerance, key)


def test_scales_get_no_gradient():
    case = draw_case((2, 4, 4, 5))
    actual, _ = native_chain(case, activation=True, sign=True, clip=None, relu=False)
    assert "scale0" not in actual.gradients


def test_statistics_are_those_of_the_scaled_input():
    case = draw_case((4, 5, 5, 9), branches=2)
    _, chain = native_chain(case, activation=False, sign=False, clip=None, relu=False)
    x = np.concatenate([x.reshape(-1, 9) for x in case.xs], -1).astype(np.float64)
    scaled = x * np.concatenate([case.parameters["scale0"], case.parameters["scale1"]])
    np.testing.assert_allclose(chain.mean, x.mean(0), rtol=1e-6)
    np.testing.assert_allclose(chain.variance, x.var(0), rtol=1e-5)
    np.testing.assert_allclose(chain.batch_mean, scaled.mean(0), rtol=1e-6)
    np.testing.assert_allclose(chain.batch_variance, scaled.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize("name", CHAINS)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_given_statistics_take_the_place_of_those_of_the_batch(name, shape):
    """In float64: the chain of which each branch is normalised by the given mean and variance."""
    of_case, of_chain = _options(CHAINS[name])
    case = draw_case(shape, **of_case)
    channels = shape[-1] * len(case.xs)
    rng = np.random.default_rng(7)
    given = rng.normal(2.0, 1.0, channels), rng.uniform(0.2, 4.0, channels)
    p = {key: value.astype(np.float64) for key, value in case.parameters.items()}
    v = []
    for k, x in enumerate(case.xs):
        mean, variance = (np.split(each, len(case.xs))[k] for each in given)
        scaled = p[f"scale{k}"] * (np.maximum(x, 0) if of_chain["relu"] else x)
        normal = (scaled - mean) / np.sqrt(variance + EPSILON)
        shortcut = 0.0 if case.shortcut is None else case.shortcut
        v.append(p[f"gamma{k}"] * normal + p[f"beta{k}"] + shortcut)
    y = np.concatenate(v, -1)
    if of_chain["activation"]:
        t = y + p["shift_in"]
        y = np.where(t > 0, t, p["slope"] * t) + p["shift_out"]
    chain = norm_chain(
        [
            Branch(x, *(case.parameters[f"{name}{k}"] for name in ("gamma", "beta", "scale")))
            for k, x in enumerate(case.xs)
        ],
        epsilon=EPSILON,
        relu=of_chain["relu"],
        shortcut=case.shortcut,
        activation=Activation(*(case.parameters[n] for n in ("shift_in", "slope", "shift_out")))
        if of_chain["activation"]
        else None,
        sign=SignOf(case.parameters["shift"], tf.float32, of_chain["clip"])
        if of_chain["sign"]
        else None,
        statistics=tuple(tf.constant(each, tf.float32) for each in given),
    )
    _assert_close(chain.y.numpy(), y, 3e-6, "y")
    if of_chain["sign"]:
        u = y + p["shift"]
        sure = np.abs(u) > 1e-5
        np.testing.assert_array_equal(chain.signs.numpy()[sure], np.where(u >= 0, 1, -1)[sure])


def test_given_statistics_have_no_gradient():
    x = tf.ones([2, 3, 3, 4])
    with tf.GradientTape() as tape:
        tape.watch(x)
        branch = Branch(x, tf.ones([4]), tf.zeros([4]))
        y = norm_chain([branch], epsilon=EPSILON, statistics=(tf.zeros([4]), tf.ones([4]))).y
    with pytest.raises(LookupError, match="has no gradient"):
        tape.gradient(y, x)


@pytest.mark.parametrize("sizes", [(4, 3), (3, 4), (5, 5)])
def test_given_statistics_of_another_size_are_refused(sizes):
    branch = Branch(tf.ones([2, 3, 3, 4]), tf.ones([4]), tf.ones([4]))
    with pytest.raises(tf.errors.InvalidArgumentError, match="expected 4 given means"):
        norm_chain([branch], epsilon=EPSILON, statistics=tuple(tf.ones([n]) for n in sizes))


def test_a_large_mean_does_not_cost_the_variance():
    case = draw_case((8, 16, 16, 6), mean=1e4)
    _, chain = native_chain(case, activation=False, sign=False, clip=None, relu=False)
    rows = case.xs[0].reshape(-1, 6).astype(np.float64)
    np.testing.assert_allclose(chain.variance, rows.var(0), rtol=1e-5)


def test_equal_values_become_beta_exactly():
    case = draw_case((4, 3, 3, 5), shortcut=False)
    case.xs[0][:] = 1234.5
    actual, chain = native_chain(case, activation=False, sign=False, clip=None, relu=False)
    np.testing.assert_array_equal(chain.variance, 0.0)
    np.testing.assert_array_equal(actual.y, np.broadcast_to(case.parameters["beta0"], (4, 3, 3, 5)))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_spoils_its_channel_and_no_other(bad):
    case = draw_case((4, 6, 6, 20))
    clean, _ = native_chain(case, activation=True, sign=True, clip=None, relu=False)
    case.xs[0][2, 3, 4, 7] = bad
    actual, chain = native_chain(case, activation=True, sign=True, clip=None, relu=False)
    others = np.arange(20) != 7
    assert np.isnan(actual.y[..., 7]).all()
    assert np.isnan(chain.batch_variance.numpy()[7])
    np.testing.assert_array_equal(actual.y[..., others], clean.y[..., others])
    np.testing.assert_array_equal(
        actual.gradients["x0"][..., others], clean.gradients["x0"][..., others]
    )
    assert np.isnan(actual.gradients["x0"][..., 7]).all()


def test_what_is_not_a_number_passes_the_relu():
    case = draw_case((4, 3, 3, 4))
    case.xs[0][0, 0, 0, 1] = np.nan
    actual, _ = native_chain(case, activation=False, sign=True, clip=1.0, relu=True)
    assert np.isnan(actual.y[..., 1]).all()
    assert np.isfinite(actual.y[..., [0, 2, 3]]).all()


def test_gradients_that_are_not_finite_are_not_hidden():
    case = draw_case((4, 3, 3, 4))
    case.dy[0, 1, 1, 2] = np.inf
    actual, _ = native_chain(case, activation=True, sign=True, clip=None, relu=False)
    assert not np.isfinite(actual.gradients["gamma0"][2])
    assert np.isfinite(actual.gradients["gamma0"][[0, 1, 3]]).all()


def test_denormals_are_zero_or_themselves():
    case = draw_case((4, 8, 8, 16))
    case.xs[0][:] = np.float32(1e-40)
    actual, chain = native_chain(case, activation=True, sign=True, clip=None, relu=False)
    assert np.isfinite(actual.y).all()
    assert np.abs(chain.batch_mean.numpy()).max() <= 1e-38


def test_zero_is_positive_and_so_is_negative_zero():
    case = draw_case((2, 2, 2, 3), shortcut=False)
    case.xs[0][:] = 5.0
    case.parameters["beta0"][:] = [0.0, -0.0, -1e-30]
    case.parameters["shift"][:] = 0.0
    actual, _ = native_chain(case, activation=False, sign=True, clip=None, relu=False)
    np.testing.assert_array_equal(actual.signs, np.broadcast_to([1.0, 1.0, -1.0], (2, 2, 2, 3)))


def test_an_empty_batch_is_empty():
    case = draw_case((0, 4, 4, 8))
    actual, _ = native_chain(case, activation=True, sign=True, clip=None, relu=False)
    assert actual.y.shape == (0, 4, 4, 8)
    assert actual.gradients["x0"].shape == (0, 4, 4, 8)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"gamma": tf.ones([3])}, "expected 4 parameters"),
        ({"shortcut": tf.ones([2, 3, 3, 1])}, "shortcut"),
    ],
)
def test_wrong_shapes_are_refused(change, message):
    x = tf.ones([2, 3, 3, 4])
    branch = Branch(x, change.get("gamma", tf.ones([4])), tf.ones([4]))
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        norm_chain([branch], epsilon=EPSILON, shortcut=change.get("shortcut"))


def test_it_knows_its_shapes_in_a_graph():
    @tf.function(input_signature=[tf.TensorSpec([None, 8, 8, 6])])
    def run(x):
        branch = Branch(x, tf.ones([6]), tf.zeros([6]))
        chain = norm_chain([branch, branch], epsilon=EPSILON, sign=SignOf(tf.zeros([12])))
        assert chain.y.shape.as_list() == [None, 8, 8, 12]
        assert chain.signs.shape.as_list() == [None, 8, 8, 12]
        assert chain.batch_mean.shape.as_list() == [12]
        return chain.y

    assert run(tf.ones([3, 8, 8, 6])).shape == [3, 8, 8, 12]

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.training_phases import FloatKernel
from candle_tf.students.architectures.reactnet import reactnet_a
from candle_tf.students.architectures.registry import STUDENTS
from candle_tf.students.compute_policy import PLAIN, ComputePolicy, set_compute_policy
from candle_tf.students.layers.annealed_sign import BNextKernelSign
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import binary_layers
from candle_tf.students.layers.quantizers import ScaledSign, SteSign
from tests.native.availability import needs_native

pytestmark = needs_native

FLOAT32, BFLOAT16 = ComputePolicy(native=True), ComputePolicy(native=True, dtype="bfloat16")
QUANTIZERS = {
    "scaled": ScaledSign,
    "ste": SteSign,
    "ste_wide": lambda: SteSign(1.25),
    "annealed": BNextKernelSign,
    "float": FloatKernel,
}


def _signs(shape: tuple[int, ...], seed: int = 0) -> tf.Tensor:
    return tf.constant(np.random.default_rng(seed).choice([-1.0, 1.0], shape), tf.float32)


def _layer(quantizer: str, clip: float | None, **options) -> BinaryConv2D:
    layer = BinaryConv2D(
        8,
        3,
        padding="same",
        pad_values=options.pop("pad_values", 1.0),
        kernel_quantizer=QUANTIZERS[quantizer](),
        kernel_constraint=lq.constraints.WeightClip(clip) if clip else None,
        # Some weights lie outside of the straight-through regions.
        kernel_initializer=tf.keras.initializers.RandomUniform(-1.6, 1.6, seed=3),
        **options,
    )
    layer.build(tf.TensorShape([2, 6, 6, 4]))
    if clip:
        layer.kernel.assign(tf.clip_by_value(layer.kernel.numpy(), -clip, clip))
    return layer


def _step(layer: tf.keras.layers.Layer, policy: ComputePolicy, x: tf.Tensor):
    """Outputs and gradients, to inputs and weights, of a training step with one policy."""
    layer.compute_policy = policy
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        upstream = np.random.default_rng(7).normal(size=y.shape)
        loss = tf.reduce_sum(y * tf.constant(upstream, y.dtype))
    return y.numpy(), [g.numpy() for g in tape.gradient(loss, [x, *layer.trainable_variables])]


@pytest.mark.parametrize("clip", [None, 1.0, 1.5])
@pytest.mark.parametrize("quantizer", QUANTIZERS)
@pytest.mark.parametrize(
    "options", [{}, {"strides": 2}, {"use_bias": True}, {"pad_values": 0.0}], ids=str
)
def test_training_computes_what_larq_computes(quantizer, clip, options):
    layer, x = _layer(quantizer, clip, **options), _signs((2, 6, 6, 4))
    expected, expected_gradients = _step(layer, PLAIN, x)
    actual, gradients = _step(layer, FLOAT32, x)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert len(gradients) == len(expected_gradients) >= 2
    for ours, plain in zip(gradients, expected_gradients, strict=True):
        assert np.abs(plain).max() > 0
        np.testing.assert_allclose(ours, plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "options",
    [{"padding": "valid"}, {"dilation_rate": 2}, {"kernel_size": (3, 1)}, {"activation": "relu"}],
    ids=str,
)
def test_unusual_layers_are_left_to_larq(options):
    arguments = {"kernel_size": 3, "padding": "same", "kernel_quantizer": ScaledSign(), **options}
    layer, x = BinaryConv2D(8, **arguments), _signs((2, 6, 6, 4))
    layer(x)
    np.testing.assert_array_equal(_step(layer, BFLOAT16, x)[0], layer(x))


def test_bfloat16_outputs_are_exact_and_float32():
    layer, x = _layer("scaled", 1.0), _signs((2, 6, 6, 4))
    expected, _ = _step(layer, PLAIN, x)
    actual, gradients = _step(layer, BFLOAT16, x)
    assert actual.dtype == np.float32
    # A rounding of the sums would be 4e-3 of them.
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-5)
    assert {g.dtype for g in gradients} == {np.dtype(np.float32)}


def test_annealed_kernels_are_never_rounded_to_bfloat16():
    layer, x = _layer("annealed", 1.5), _signs((2, 6, 6, 4))
    np.testing.assert_allclose(_step(layer, BFLOAT16, x)[0], _step(layer, FLOAT32, x)[0], rtol=1e-6)


def _network_step(model: tf.keras.Model, policy: ComputePolicy, pixels: tf.Tensor):
    set_compute_policy(model, policy)
    state = model.get_weights()
    with tf.GradientTape() as tape:
        logits = model(pixels, training=True)["logits"]
        loss = tf.reduce_mean(tf.square(logits))
    gradients = tape.gradient(loss, model.trainable_variables)
    model.set_weights(state)
    return logits.numpy(), [g.numpy() for g in gradients]


def test_a_whole_reactnet_trains_alike_with_every_policy():
    model = reactnet_a((32, 32, 3), 5, width=0.25, stem_stride=1)
    pixels = tf.constant(np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)), tf.float32)
    logits, gradients = _network_step(model, PLAIN, pixels)
    for policy, tolerance in ((FLOAT32, 1e-3), (BFLOAT16, 0.05)):
        ours, our_gradients = _network_step(model, policy, pixels)
        assert np.linalg.norm(ours - logits) < 1e-3 * np.linalg.norm(logits), policy
        if policy == FLOAT32:
            np.testing.assert_allclose(ours, logits, rtol=1e-3, atol=1e-4)
        for variable, a, b in zip(model.trainable_variables, our_gradients, gradients, strict=True):
            error = np.linalg.norm(a - b) / max(np.linalg.norm(b), 1e-6)
            assert error < tolerance, (policy, variable.name, error)


def test_evaluation_does_not_depend_on_the_policy():
    model = reactnet_a((32, 32, 3), 5, width=0.25)
    pixels = tf.random.stateless_uniform((2, 32, 32, 3), seed=(1, 2), maxval=255.0)
    logits = []
    for policy in (PLAIN, FLOAT32, BFLOAT16):
        set_compute_policy(model, policy)
        logits.append(model(pixels, training=False)["logits"].numpy())
    np.testing.assert_array_equal(logits[0], logits[1])
    np.testing.assert_array_equal(logits[0], logits[2])


@pytest.mark.parametrize("name", STUDENTS)
def test_every_students_convolutions_are_of_this_layer(name):
    model = STUDENTS[name]((64, 64, 3), 3, width=0.125)
    expected = set() if name.startswith("float_") else {BinaryConv2D}
    assert {type(layer) for layer in binary_layers(model)} == expected


def test_copies_of_a_layer_compute_the_same():
    layer, x = _layer("scaled", 1.0), _signs((2, 6, 6, 4))
    copy = BinaryConv2D.from_config(layer.get_config())
    copy.build(x.shape)
    copy.set_weights(layer.get_weights())
    np.testing.assert_array_equal(copy(x, training=True), layer(x, training=True))

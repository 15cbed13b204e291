"""A student's training by the native operators against the plain composition."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.batch_norm_statistics import BatchNormStatistics, trainable_batch_norms
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.registry import METHODS
from candle_tf.students.architectures.registry import STUDENTS, build_student
from candle_tf.students.compute_policy import PLAIN, ComputePolicy, set_compute_policy
from candle_tf.students.fused_forward import (
    FusedForward,
    evaluation_forward,
    is_native,
    training_forward,
)
from candle_tf.students.layers.blocks import RPReLU, Shift, batch_norm, binary_conv
from candle_tf.students.layers.quantizers import ApproxSign
from tests.native.availability import needs_native
from tests.students.native_step import (
    CLASSES,
    NATIVE,
    assert_same_step,
    distance,
    narrow_student,
    step_of,
)

pytestmark = needs_native

NATIVE_BFLOAT16 = ComputePolicy(dtype="bfloat16", native=True)
SIDE = 32
# One of each family: the others differ in the number of blocks alone.
NAMES = ("reactnet_a", "quicknet_small", "birealnet18", "real_to_binary", "bnext_t")


def _batch(size: int = 6) -> tuple[tf.Tensor, tf.Tensor]:
    rng = np.random.default_rng(1)
    images = rng.uniform(0, 255, (size, SIDE, SIDE, 3)).astype(np.float32)
    return tf.constant(images), tf.constant(rng.normal(size=(size, CLASSES)), tf.float32)


def _step(student: tf.keras.Model, policy: ComputePolicy, weights: list[np.ndarray]):
    return step_of(student, policy, weights, *_batch())


def test_every_family_is_tested():
    assert {name for name in STUDENTS if name.startswith(NAMES)} >= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_outputs_gradients_and_statistics_are_those_of_the_plain_composition(name):
    student = narrow_student(name, SIDE)
    weights = student.get_weights()
    wanted = _step(student, PLAIN, weights)
    actual = _step(student, NATIVE, weights)
    assert_same_step(student, actual, wanted)


def test_bfloat16_operands_round_the_gradients_alone():
    student = narrow_student("reactnet_a", SIDE)
    weights = student.get_weights()
    wanted = _step(student, NATIVE, weights)
    actual = _step(student, NATIVE_BFLOAT16, weights)
    # The sums of this width are below 512, and exact.
    np.testing.assert_allclose(actual[0], wanted[0], rtol=0, atol=1e-5)
    for variable, a, w in zip(student.trainable_variables, actual[1], wanted[1], strict=True):
        assert distance(a, w, 1e-6) < 0.05, variable.name


@pytest.mark.parametrize(
    ("name", "fused"),
    [("reactnet_a", 32), ("birealnet18", 20), ("real_to_binary", 20), ("bnext_t", 63)],
)
def test_every_usual_batch_norm_runs_in_an_operator(name, fused):
    student = narrow_student(name, SIDE)
    norms = [
        layer for layer in student.layers if isinstance(layer, tf.keras.layers.BatchNormalization)
    ]
    assert FusedForward(student).fused == fused == len(norms)


def test_a_frozen_batch_norm_keeps_its_statistics():
    student = narrow_student("reactnet_a", SIDE)
    frozen = student.get_layer("block03_spatial_bn")
    frozen.trainable = False
    weights = student.get_weights()
    wanted, _, _ = _step(student, PLAIN, weights)
    actual, _, _ = _step(student, NATIVE, weights)
    np.testing.assert_allclose(actual, wanted, rtol=0, atol=1e-3)
    np.testing.assert_array_equal(frozen.moving_mean, 0.0)


def _small_network(shortcuts: str) -> tf.keras.Model:
    """Two normalised branches of one sign, summed and concatenated."""
    x = inputs = tf.keras.Input((6, 6, 8))
    sign = ApproxSign()(Shift()(x))
    left = batch_norm(binary_conv(sign, 8, 3, 1, "left"), "left_bn") + x
    right = batch_norm(binary_conv(sign, 8, 3, 1, "right"), "right_bn")
    right = right + (x if shortcuts == "same" else left)
    y = RPReLU()(tf.keras.layers.Concatenate()([left, right]))
    return tf.keras.Model(inputs, {"logits": y, "left": left})


@pytest.mark.parametrize("shortcuts", ["same", "one of the other"])
def test_what_others_read_too_is_not_joined(shortcuts):
    """The left branch is an output of its own here, and in one network the right one's shortcut."""
    network = _small_network(shortcuts)
    x = tf.constant(np.random.default_rng(0).normal(size=(3, 6, 6, 8)), tf.float32)
    weights = network.get_weights()
    found = {}
    for policy in (PLAIN, NATIVE):
        network.set_weights(weights)
        set_compute_policy(network, policy)
        found[policy] = training_forward(network)(x)
    for name in ("logits", "left"):
        np.testing.assert_allclose(found[NATIVE][name], found[PLAIN][name], rtol=0, atol=1e-5)


def test_networks_without_the_policy_run_as_they_are():
    student = narrow_student("reactnet_a", SIDE)
    set_compute_policy(student, ComputePolicy())
    assert not is_native(student)
    assert not is_native(tf.keras.Sequential([tf.keras.layers.Dense(2)]))


def _train(policy: ComputePolicy, strategy: tf.distribute.Strategy, steps: int = 3):
    """A trainer after some steps of `fit`."""
    tf.keras.utils.set_random_seed(0)
    images, _ = _batch(12)
    labels = tf.constant(np.arange(12) % CLASSES, tf.int32)
    data = (
        tf.data.Dataset.from_tensor_slices({"inputs": images, "labels": labels})
        .batch(4)
        .take(steps)
    )
    with strategy.scope():
        student = build_student("reactnet_a", (SIDE, SIDE, 3), CLASSES, width=0.25)
        set_compute_policy(student, policy)
        counts = np.ones(CLASSES, np.int64)
        optimizer = adam(1e-3, weight_decay=1e-4)
        group = ParameterGroup(student.trainable_variables, optimizer)
        trainer = SupervisedTrainer(student, METHODS["cross_entropy"], counts, [group])
    trainer.fit(data, verbose=0)
    return trainer


def test_fit_trains_as_the_plain_composition_does():
    strategy = tf.distribute.get_strategy()
    wanted = _train(PLAIN, strategy, steps=1)
    actual = _train(NATIVE, strategy, steps=1)
    moments = wanted.parameter_groups[0].optimizer._momentums
    pairs = zip(
        actual.network.trainable_variables, wanted.network.trainable_variables, moments, strict=True
    )
    for a, w, moment in pairs:
        # Adam's first step is the gradient's sign, which rounding decides where that is near 0.
        size = np.abs(moment.numpy())
        sure = size > 0.02 * size.max()
        np.testing.assert_allclose(a.numpy()[sure], w.numpy()[sure], rtol=0, atol=1e-4)


def test_fit_gives_the_same_bits_again():
    strategy = tf.distribute.get_strategy()
    first, second = (_train(NATIVE, strategy).network.get_weights() for _ in range(2))
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


def test_it_trains_under_a_mirrored_strategy():
    strategy = tf.distribute.MirroredStrategy(["CPU:0"])
    mirrored = _train(NATIVE, strategy).network
    alone = _train(NATIVE, tf.distribute.get_strategy()).network
    for a, b in zip(mirrored.get_weights(), alone.get_weights(), strict=True):
        near = np.isclose(a, b, rtol=0, atol=1e-4 * max(1.0, float(np.abs(b).max())))
        assert near.mean() > 0.97


@pytest.mark.parametrize("name", NAMES)
def test_validation_by_the_operators_is_that_of_the_plain_composition(name):
    student = narrow_student(name, SIDE)
    _draw_statistics(student)
    weights = student.get_weights()
    images, _ = _batch()
    set_compute_policy(student, PLAIN)
    wanted = student(images, training=False)["logits"].numpy()
    found = []
    for policy in (NATIVE, NATIVE_BFLOAT16):
        set_compute_policy(student, policy)
        found.append(tf.function(evaluation_forward(student))(images)["logits"].numpy())
    # Sums are exact there, whatever the operands in training are.
    np.testing.assert_array_equal(*found)
    assert isinstance(evaluation_forward(student), FusedForward)
    tolerance = 1e-4 * float(np.abs(wanted).max())
    np.testing.assert_allclose(found[0], wanted, rtol=0, atol=tolerance)
    for before, after in zip(weights, student.get_weights(), strict=True):
        np.testing.assert_array_equal(after, before)


def _draw_statistics(student: tf.keras.Model) -> None:
    """Statistics as of a training: near those of a batch, of which each channel is off a little."""
    set_compute_policy(student, PLAIN)
    norms = trainable_batch_norms(student)
    BatchNormStatistics(student).reestimate([{"inputs": _batch(12)[0]}])
    rng = np.random.default_rng(2)
    for norm in norms:
        shape = norm.moving_mean.shape
        spread = tf.sqrt(norm.moving_variance)
        norm.moving_mean.assign_add(spread * rng.normal(0, 0.1, shape).astype(np.float32))
        norm.moving_variance.assign(
            norm.moving_variance * rng.uniform(0.8, 1.2, shape).astype(np.float32)
        )


def test_validation_in_fit_is_that_of_the_plain_composition():
    images, _ = _batch(12)
    labels = tf.constant(np.arange(12) % CLASSES, tf.int32)
    trainer = _train(NATIVE, tf.distribute.get_strategy())
    data = tf.data.Dataset.from_tensors({"inputs": images, "labels": labels})
    found = {}
    for policy in (NATIVE, PLAIN):
        set_compute_policy(trainer.network, policy)
        trainer.test_function = None
        found[policy] = trainer.evaluate(data, verbose=0, return_dict=True)
    logits = trainer.network(images, training=False)["logits"]
    wanted = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    for figures in found.values():
        np.testing.assert_allclose(figures["loss"], np.mean(wanted), rtol=1e-4)
    assert found[NATIVE].keys() == found[PLAIN].keys()


def test_evaluation_does_not_change():
    student = narrow_student("reactnet_a", SIDE)
    images, _ = _batch()
    set_compute_policy(student, PLAIN)
    plain = student(images, training=False)["logits"].numpy()
    set_compute_policy(student, NATIVE)
    np.testing.assert_array_equal(student(images, training=False)["logits"], plain)

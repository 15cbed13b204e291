"""Re-estimated statistics of batch norms against NumPy."""

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.annealing import find_annealed_quantizers
from candle_tf.methods.batch_norm_statistics import (
    BatchNormStatistics,
    ReestimateBatchNorm,
    trainable_batch_norms,
)
from candle_tf.students.compute_policy import (
    PLAIN,
    ComputePolicy,
    compute_policy_of,
    set_compute_policy,
)
from candle_tf.students.fused_forward import is_native
from tests.methods.test_distillation import binary_student, float_student, teacher_batch
from tests.methods.test_training_phases import _annealed_student
from tests.native.availability import needs_native
from tests.students.native_step import NATIVE, distance, narrow_student


def _batches(count: int = 3) -> list[dict[str, np.ndarray]]:
    return [{"inputs": teacher_batch(seed=number)["inputs"]} for number in range(count)]


def _normalize(values: np.ndarray, layer) -> np.ndarray:
    """A batch norm in training, of one batch."""
    mean, variance = values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))
    scaled = (values - mean) / np.sqrt(variance + layer.epsilon)
    return scaled * layer.gamma.numpy() + layer.beta.numpy()


def test_statistics_are_means_and_variances_of_all_inputs():
    """The first layer's inputs by a convolution, the second's by NumPy's batch norm of the first's;
    over all views together, not as a mean of the batches' variances."""
    student = float_student()
    convolution, norm = student.get_layer("stem_conv"), student.get_layer("stem_bn")
    second = tf.keras.layers.BatchNormalization(name="second_bn")
    x = second(tf.keras.layers.Activation("tanh")(norm.output))
    network = tf.keras.Model(student.inputs, {"logits": x})
    norm.gamma.assign(np.linspace(0.5, 2.0, 8))
    norm.beta.assign(np.linspace(-1.0, 1.0, 8))
    weights = [variable.numpy() for variable in network.trainable_variables]
    # Batches of unequal brightness.
    batches = [{"inputs": b["inputs"] * f} for b, f in zip(_batches(), (1, 0.3, 0.6), strict=True)]
    BatchNormStatistics(network).reestimate(batches)

    each = [convolution(b["inputs"] / 127.5 - 1.0).numpy().astype(np.float64) for b in batches]
    inputs = {"stem_bn": np.concatenate(each)}
    inputs["second_bn"] = np.tanh(np.concatenate([_normalize(values, norm) for values in each]))
    for name, values in inputs.items():
        layer = network.get_layer(name)
        mean, variance = values.mean(axis=(0, 1, 2)), values.var(axis=(0, 1, 2))
        np.testing.assert_allclose(layer.moving_mean.numpy(), mean, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(layer.moving_variance.numpy(), variance, rtol=1e-4, atol=1e-6)
    of_batches = np.mean([values.var(axis=(0, 1, 2)) for values in each], axis=0)
    assert np.max(norm.moving_variance.numpy() / of_batches) > 1.1
    for variable, before in zip(network.trainable_variables, weights, strict=True):
        np.testing.assert_array_equal(variable.numpy(), before)


def test_a_frozen_batch_norm_keeps_its_statistics():
    student = binary_student()
    frozen = student.get_layer("stem_bn")
    frozen.trainable = False
    before = student.get_weights()
    others = trainable_batch_norms(student)
    BatchNormStatistics(student).reestimate(_batches())
    assert all(frozen is not layer for layer in others)
    moved = {v.ref() for layer in others for v in (layer.moving_mean, layer.moving_variance)}
    for variable, value in zip(student.weights, before, strict=True):
        assert np.array_equal(variable.numpy(), value) == (variable.ref() not in moved)


@needs_native
@pytest.mark.parametrize("name", ["reactnet_a", "bnext_t"])
def test_native_statistics_are_the_plain_ones_and_nothing_is_rounded_to_bfloat16(name):
    """Sums of more than 512 signs are rounded in training in bfloat16; here they are not."""
    student = narrow_student(name, 32)
    weights = student.get_weights()
    found = {}
    for policy in (PLAIN, NATIVE, ComputePolicy(native=True, dtype="bfloat16")):
        student.set_weights(weights)
        set_compute_policy(student, policy)
        BatchNormStatistics(student).reestimate(_large_batches())
        assert compute_policy_of(student) == policy
        found[policy.native, policy.dtype] = student.get_weights()
    plain, native, rounded = found.values()
    for variable, one, other in zip(student.weights, native, rounded, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=variable.name)
    for variable, one, other in zip(student.weights, native, plain, strict=True):
        assert distance(one, other, 1e-2) < 1e-4, variable.name
    moved = [not np.array_equal(a, b) for a, b in zip(native, weights, strict=True)]
    statistics = [v for v in student.weights if "moving" in v.name]
    assert sum(moved) == len(statistics) > 20


@needs_native
def test_batch_norms_that_run_in_no_operator_are_estimated_natively_too():
    """One without a scale is no usual one, and runs as a layer."""
    found = []
    for policy in (PLAIN, NATIVE):
        student = _student_with_a_batch_norm_without_scale()
        set_compute_policy(student, policy)
        assert is_native(student) == policy.native
        BatchNormStatistics(student).reestimate(_large_batches())
        norm = student.get_layer("own_bn")
        found.append((norm.moving_mean.numpy(), norm.moving_variance.numpy()))
    for one, other in zip(*found, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
        assert np.abs(one).max() > 0


def _large_batches() -> list[dict[str, np.ndarray]]:
    rng = np.random.default_rng(3)
    return [{"inputs": rng.uniform(0, 255, (4, 32, 32, 3)).astype(np.float32)} for _ in range(2)]


def _student_with_a_batch_norm_without_scale() -> tf.keras.Model:
    student = narrow_student("reactnet_a", 32)
    own = tf.keras.layers.BatchNormalization(scale=False, name="own_bn")
    logits = own(student.output["logits"])
    return tf.keras.Model(student.inputs, {"logits": logits})


def test_annealed_kernels_are_exact_signs_for_the_estimate_alone():
    student, exact = _annealed_student(), _annealed_student()
    exact.set_weights(student.get_weights())
    quantizers = find_annealed_quantizers(student)
    find_annealed_quantizers(exact)[0].set_exact_sign()
    BatchNormStatistics(exact).reestimate(_batches())
    again = ReestimateBatchNorm(student, lambda _: _batches(), {1}, quantizers)
    before = student.get_weights()
    again.on_epoch_begin(0)
    again.on_epoch_end(0)
    for one, other in zip(student.get_weights(), before, strict=True):
        np.testing.assert_array_equal(one, other)
    again.on_epoch_begin(1)
    again.on_epoch_end(1)
    assert quantizers[0].temperature.numpy() == 1.0
    for name in ("moving_mean", "moving_variance"):
        one, other = (getattr(each.get_layer("bn"), name).numpy() for each in (student, exact))
        np.testing.assert_array_equal(one, other)
    assert np.abs(student.get_layer("bn").moving_mean.numpy()).max() > 0


def test_batch_norms_inside_of_other_layers_are_refused():
    inner = tf.keras.Sequential([tf.keras.layers.BatchNormalization(name="hidden_bn")])
    pixels = tf.keras.Input((8, 8, 3))
    with pytest.raises(ValueError, match="hidden_bn is inside of another layer"):
        trainable_batch_norms(tf.keras.Model(pixels, inner(pixels)))

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
from candle_tf.students.compute_policy import ComputePolicy, set_compute_policy
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import RPReLU
from tests.methods.test_distillation import binary_student, float_student, teacher_batch
from tests.methods.test_training_phases import _annealed_student


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


def test_the_network_is_computed_plainly_and_trains_natively_after_it():
    """Sums of the native operators may be rounded, those of evaluation are not."""
    plain, native = binary_student(), binary_student()
    policy = ComputePolicy(native=True, dtype="bfloat16")
    set_compute_policy(native, policy)
    for student in (plain, native):
        BatchNormStatistics(student).reestimate(_batches())
    for one, other in zip(plain.weights, native.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    layers = [m for m in native.submodules if isinstance(m, BinaryConv2D | RPReLU)]
    policies = [m.compute_policy for m in layers if isinstance(m, BinaryConv2D)]
    assert policies
    assert all(each == policy for each in policies)


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

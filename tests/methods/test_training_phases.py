import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.binarize import make_deployable
from candle_tf.deploy.tflite.converter import convert
from candle_tf.errors import UserError
from candle_tf.methods.training_phases import (
    clone_with_float_kernels,
    clone_without_kernel_constraint,
    copy_weights,
)
from candle_tf.students.layers.annealed_sign import BNextKernelSign
from candle_tf.students.layers.binary_conv import BinaryConv2D
from candle_tf.students.layers.blocks import batch_norm, binary_layers
from candle_tf.students.layers.quantizers import ApproxSign, ScaledSign
from tests.methods.test_baselines import supervised_trainer
from tests.methods.test_distillation import CLASSES, binary_student, teacher_batch
from tests.students.layers.test_blocks import _conv_by_hand


def _pixels() -> np.ndarray:
    return teacher_batch()["inputs"]


def _randomize(model: tf.keras.Model, seed: int = 0) -> tf.keras.Model:
    rng = np.random.default_rng(seed)
    model.set_weights([rng.uniform(0.1, 0.9, weight.shape) for weight in model.get_weights()])
    return model


def _train(network: tf.keras.Model, rate: float, steps: int = 3) -> None:
    trainer = supervised_trainer(network, "cross_entropy", tf.keras.optimizers.SGD(rate))
    batch = {name: tf.constant(value) for name, value in teacher_batch().items()}
    for _ in range(steps):
        trainer.train_step(batch)


def _outputs_of(network: tf.keras.Model, layer: str) -> np.ndarray:
    return tf.keras.Model(network.input, network.get_layer(layer).output)(_pixels()).numpy()


def test_phase_one_has_the_students_weights_binary_activations_and_float_kernels():
    student = binary_student()
    first = clone_with_float_kernels(student)
    assert [w.name for w in first.weights] == [w.name for w in student.weights]
    assert binary_layers(first) == []
    for one, other in zip(first.get_weights(), student.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    for layer in binary_layers(student):
        sign_name = layer.name.replace("_left", "").replace("_right", "").replace("conv", "sign")
        signs = _outputs_of(first, sign_name)
        assert set(np.unique(signs)) == {-1.0, 1.0}
        expected = _conv_by_hand(signs, layer.kernel.numpy(), layer.strides[0])
        actual = _outputs_of(first, layer.name)
        np.testing.assert_allclose(actual, expected, rtol=1e-4, atol=1e-5)


def test_phase_one_trains_inside_the_clipping_and_leaves_the_student_alone():
    student = binary_student()
    before = [weight.numpy() for weight in student.weights]
    first = clone_with_float_kernels(student)
    _train(first, rate=50.0)
    for layer in binary_layers(student):
        kernel = first.get_layer(layer.name).kernel.numpy()
        assert (kernel != layer.kernel.numpy()).any()
        assert np.abs(kernel).max() == 1.0
    for old, weight in zip(before, student.weights, strict=True):
        np.testing.assert_array_equal(weight.numpy(), old)


def test_phase_two_begins_with_the_weights_and_statistics_of_phase_one():
    student = binary_student()
    first = clone_with_float_kernels(student)
    _train(first, rate=0.1)
    copy_weights(first, student)
    for one, other in zip(first.weights, student.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.name)
    assert np.abs(student.get_layer("stem_bn").moving_mean.numpy()).max() > 0
    for layer in binary_layers(student):
        quantized = np.abs(layer.kernel_quantizer(layer.kernel.numpy()))
        expected = np.abs(first.get_layer(layer.name).kernel.numpy()).mean((0, 1, 2))
        np.testing.assert_allclose(quantized, np.broadcast_to(expected, quantized.shape), rtol=1e-5)


def test_a_bias_of_a_binary_convolution_goes_to_phase_one_and_back():
    pixels = tf.keras.Input((8, 8, 3))
    x = ApproxSign()(tf.keras.layers.Conv2D(8, 3, name="stem_conv")(pixels))
    x = BinaryConv2D(8, 3, padding="same", kernel_quantizer=ScaledSign(), name="conv")(x)
    student = _randomize(tf.keras.Model(pixels, {"logits": x}))
    bias = student.get_layer("conv").bias.numpy()
    first = clone_with_float_kernels(student)
    np.testing.assert_array_equal(first.get_layer("conv").bias.numpy(), bias)
    first.get_layer("conv").bias.assign(2 * bias)
    copy_weights(first, student)
    np.testing.assert_array_equal(student.get_layer("conv").bias.numpy(), 2 * bias)


def _annealed_student() -> tf.keras.Model:
    pixels = tf.keras.Input((8, 8, 3))
    x = ApproxSign()(tf.keras.layers.Conv2D(8, 3, name="stem_conv")(pixels))
    x = lq.layers.QuantConv2D(
        8, 3, pad_values=1.0, padding="same", kernel_quantizer=BNextKernelSign(),
        kernel_constraint=lq.constraints.WeightClip(1.5), name="conv",
    )(x)  # fmt: skip
    x = tf.keras.layers.GlobalAveragePooling2D()(batch_norm(x, "bn"))
    return tf.keras.Model(pixels, {"logits": tf.keras.layers.Dense(CLASSES)(x)})


def test_an_annealed_student_keeps_its_own_temperature():
    student = _annealed_student()
    quantizer = student.get_layer("conv").kernel_quantizer
    quantizer.anneal(0.25)
    first = _randomize(clone_with_float_kernels(student))
    copy_weights(first, student)
    assert quantizer.temperature.numpy() == 0.25
    kernel = student.get_layer("conv").kernel.numpy()
    np.testing.assert_array_equal(kernel, first.get_layer("conv").kernel.numpy())
    free = clone_without_kernel_constraint(student)
    assert free.get_layer("conv").kernel_quantizer.temperature.numpy() == 0.25


@pytest.mark.parametrize("ship", [make_deployable, convert, tf.keras.models.clone_model])
def test_phase_one_cannot_be_shipped(ship):
    with pytest.raises(UserError, match="float kernels of training phase one of --binary_steps=2"):
        ship(clone_with_float_kernels(binary_student()))


def test_phase_one_cannot_be_saved(tmp_path):
    with pytest.raises(UserError, match="float kernels of training phase one"):
        clone_with_float_kernels(binary_student()).save(tmp_path / "first.keras")


def test_latent_weights_may_leave_where_they_are_not_clipped():
    student = binary_student()
    free = clone_without_kernel_constraint(student)
    np.testing.assert_array_equal(free(_pixels())["logits"], student(_pixels())["logits"])
    assert [x.name for x in binary_layers(free)] == [x.name for x in binary_layers(student)]
    for network in (student, free):
        _train(network, rate=50.0)
    largest = [
        max(np.abs(layer.kernel.numpy()).max() for layer in binary_layers(network))
        for network in (student, free)
    ]
    assert largest[0] == 1.0
    assert largest[1] > 1.5

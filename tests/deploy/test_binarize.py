import functools

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_sample_images

from candle_tf.deploy.binarize import make_deployable
from candle_tf.errors import UserError
from candle_tf.students.architectures.bnext import annealed_conv
from candle_tf.students.architectures.reactnet import _block
from candle_tf.students.layers.blocks import batch_norm, binary_layers
from candle_tf.students.layers.quantizers import ApproxSign

SIZE = 32
CLASSES = 10


def untrained_student() -> tf.keras.Model:
    """Float stem, a block of equal width, one that halves the size and doubles the width."""
    pixels = tf.keras.Input((SIZE, SIZE, 3), name="pixels")
    x = tf.keras.layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    x = tf.keras.layers.Conv2D(16, 3, 2, padding="same", use_bias=False, name="stem_conv")(x)
    x = _block(batch_norm(x, "stem_bn"), 16, 1, "block01")
    x = _block(x, 32, 2, "block02")
    features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
    logits = tf.keras.layers.Dense(CLASSES, name="logits")(features)
    return tf.keras.Model(pixels, {"features": features, "logits": logits}, name="small")


def randomize(model: tf.keras.Model, seed: int = 0) -> tf.keras.Model:
    """Gives every variable values that matter: scales of both signs, statistics, shifts, slopes."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        name, shape = variable.name, variable.shape
        if "moving_variance" in name:
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif "gamma" in name:
            variable.assign(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape))
        elif "kernel" in name:
            variable.assign(rng.normal(0, 0.3, shape))
        else:
            variable.assign(rng.normal(0, 0.2, shape))
    return model


@functools.cache
def small_student() -> tf.keras.Model:
    return randomize(untrained_student())


@functools.cache
def photographs(count: int = 24) -> np.ndarray:
    """Real crops, uint8 [count, SIZE, SIZE, 3]."""
    rng = np.random.default_rng(1)
    images = load_sample_images().images
    crops = []
    for number in range(count):
        image = images[number % len(images)]
        top, left = (int(rng.integers(0, length - 200)) for length in image.shape[:2])
        crop = tf.image.resize(image[top : top + 200, left : left + 200], (SIZE, SIZE))
        crops.append(np.round(crop.numpy()).astype(np.uint8))
    return np.stack(crops)


def logits_of(student: tf.keras.Model) -> np.ndarray:
    return student(photographs().astype(np.float32), training=False)["logits"].numpy()


def changed_student(layer: str, attribute: str, change) -> tf.keras.Model:
    """`small_student` with one variable changed."""
    student = untrained_student()
    student.set_weights(small_student().get_weights())
    variable = getattr(student.get_layer(layer), attribute)
    variable.assign(change(variable.numpy()))
    return student


def one_hot(shape: tuple[int, ...]) -> np.ndarray:
    """float32 [N] with its first value 1."""
    return (np.arange(shape[0]) == 0).astype(np.float32)


def test_outputs_are_the_students():
    student = small_student()
    pixels = photographs().astype(np.float32)
    actual = make_deployable(student)(pixels, training=False).numpy()
    np.testing.assert_array_equal(actual, logits_of(student))


def test_kernels_have_two_values_per_channel_and_nothing_is_quantized_again():
    student = small_student()
    copy = make_deployable(student)
    for layer in binary_layers(student):
        latent = layer.kernel.numpy()
        shipped = copy.get_layer(layer.name)
        kernel = shipped.kernel.numpy()
        alpha = np.abs(latent).mean(axis=(0, 1, 2))
        np.testing.assert_allclose(kernel, alpha * np.where(latent >= 0, 1, -1), rtol=1e-5)
        for channel in range(kernel.shape[-1]):
            values = np.unique(kernel[..., channel])
            assert len(values) == 2
            assert values[0] == -values[1]
        assert shipped.kernel_quantizer is None


def test_original_is_not_moved():
    student = small_student()
    before = [variable.numpy() for variable in student.variables]
    copy = make_deployable(student)
    for variable in copy.variables:
        variable.assign(tf.zeros_like(variable))
    for old, variable in zip(before, student.variables, strict=True):
        np.testing.assert_array_equal(old, variable.numpy())


def test_layers_off_the_way_to_the_logits_are_left_out():
    student = small_student()
    projected = tf.keras.layers.Dense(7, name="projector")(student.output["features"])
    trained = tf.keras.Model(student.input, {**student.output, "projected": projected})
    names = [layer.name for layer in make_deployable(trained).layers]
    assert "logits" in names
    assert "projector" not in names


def test_mixed_precision_is_refused():
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
    try:
        student = untrained_student()
    finally:
        tf.keras.mixed_precision.set_global_policy("float32")
    with pytest.raises(UserError, match=r"float16.*float32"):
        make_deployable(student)


def test_kernels_that_are_not_annealed_to_signs_are_refused_by_name():
    pixels = tf.keras.Input((8, 8, 32), name="pixels")
    x = annealed_conv(ApproxSign()(pixels), 16, 3, 1, "soft_conv")
    features = tf.keras.layers.GlobalAveragePooling2D(name="features")(x)
    student = tf.keras.Model(pixels, {"features": features, "logits": features})
    with pytest.raises(UserError, match=r"soft_conv.*not annealed"):
        make_deployable(student)
    student.get_layer("soft_conv").kernel_quantizer.set_exact_sign()
    kernel = make_deployable(student).get_layer("soft_conv").kernel.numpy()
    np.testing.assert_array_equal(np.unique(kernel), [-1, 1])

from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits

from candle_tf.errors import UserError
from candle_tf.students.architectures.registry import build_student
from candle_tf.students.architectures.resnet18 import shortcut
from candle_tf.students.layers.blocks import binary_layers
from candle_tf.students.layers.input_normalization import normalize
from tests.deploy.test_binarize import randomize

NAMES = ("birealnet18", "real_to_binary")


def norm_by_hand(x: np.ndarray, layer: tf.keras.layers.Layer, epsilon: float) -> np.ndarray:
    """Batch normalisation as at inference, in float64."""
    gamma, beta, mean, variance = (w.astype(np.float64) for w in layer.get_weights())
    return gamma * (x - mean) / np.sqrt(variance + epsilon) + beta


def conv3x3_by_hand(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """With TensorFlow's "same" geometry and a border of 0, on small maps of 1; in float64."""
    border = 0.0 if min(x.shape[1:3]) >= 3 else 1.0
    sizes = x.shape[1:3]
    pads = [max(2 - (size - 1) % stride, 0) for size in sizes]
    widths = [(0, 0), *((pad // 2, pad - pad // 2) for pad in pads), (0, 0)]
    padded = np.pad(x, widths, constant_values=border)
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))
    return np.einsum("nhwcij,ijco->nhwo", windows[:, ::stride, ::stride], kernel)


def check_binary_inputs(model: tf.keras.Model, size: int) -> list[tf.keras.layers.Layer]:
    """Runs a student in training mode on noise; its binary convolutions must see -1 and +1 only."""
    layers = binary_layers(model)
    probe = tf.keras.Model(model.input, [layer.input for layer in layers])
    pixels = np.random.default_rng(1).uniform(0, 255, (2, size, size, 3)).astype(np.float32)
    for layer, activations in zip(layers, probe(pixels, training=True), strict=True):
        assert set(np.unique(activations)) == {-1.0, 1.0}, layer.name
    return layers


def check_training_lowers_the_loss(build: Callable[[], tf.keras.Model]) -> None:
    """Steps on one batch of scanned digits: its loss must fall to less than half."""
    tf.keras.utils.set_random_seed(0)
    student = build()
    size = student.input_shape[1]
    digits = load_digits()
    images = np.repeat(digits.images[:32, ..., None] * (255 / 16), 3, axis=-1)
    inputs, labels = tf.image.resize(images, (size, size)), digits.target[:32]
    classifier = tf.keras.Model(student.input, student.output["logits"])
    loss = tf.keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # So few steps are done before a graph of them would be traced.
    classifier.compile(tf.keras.optimizers.Adam(5e-3), loss, run_eagerly=True)
    history = classifier.fit(inputs, labels, batch_size=32, epochs=20, verbose=0).history["loss"]
    assert history[-1] < 0.5 * history[0]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("stem_stride", [1, 2])
@pytest.mark.parametrize(("width", "size"), [(0.25, 32), (0.5, 45), (1.0, 64)])
def test_widths_and_sizes(name, width, size, stem_stride):
    model = build_student(name, (size, size, 3), 5, width=width, stem_stride=stem_stride)
    side = -(-size // stem_stride)
    for number, channels in zip((4, 8, 12, 16), (64, 128, 256, 512), strict=True):
        side = -(-side // 2)
        shape = model.get_layer(f"block{number:02d}_add").output_shape[1:]
        assert shape == (side, side, width * channels)
    assert model.output["features"].shape.as_list() == [None, width * 512]
    assert model.output["logits"].shape.as_list() == [None, 5]


@pytest.mark.parametrize("name", NAMES)
def test_plan_at_224(name):
    model = build_student(name, (224, 224, 3), 1000)
    layers = binary_layers(model)
    assert [(x.output_shape[1], x.output_shape[-1]) for x in layers] == [
        *[(56, 64)] * 4,
        *[(28, 128)] * 4,
        *[(14, 256)] * 4,
        *[(7, 512)] * 4,
    ]
    binary = {layer.name for layer in layers}
    convolutions = [x.name for x in model.layers if isinstance(x, tf.keras.layers.Conv2D)]
    shortcuts = [f"block{number:02d}_shortcut_conv" for number in (5, 9, 13)]
    assert sorted(set(convolutions) - binary) == sorted(["stem_conv", *shortcuts])


@pytest.mark.parametrize("name", NAMES)
def test_padding_is_0_but_on_maps_smaller_than_the_kernel(name):
    def paddings(size: int) -> list[tuple[int, float]]:
        layers = binary_layers(build_student(name, (size, size, 3), 5, width=0.25))
        return [(layer.input_shape[1], layer.pad_values) for layer in layers]

    assert {padding for _, padding in paddings(224)} == {0.0}
    assert set(paddings(48)) == {(12, 0.0), (6, 0.0), (3, 0.0), (2, 1.0)}


@pytest.mark.parametrize("name", NAMES)
def test_another_stem_stride_is_refused(name):
    with pytest.raises(UserError, match=rf"--stem_stride=3 .*{name}"):
        build_student(name, (32, 32, 3), 5, width=0.25, stem_stride=3)


def test_pixels_are_normalised_by_colour():
    pixels = tf.keras.Input((2, 2, 3))
    model = tf.keras.Model(pixels, normalize(pixels))
    x = np.random.default_rng(0).uniform(0, 255, (2, 2, 2, 3)).astype(np.float32)
    expected = (x / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    np.testing.assert_allclose(model(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", [6, 7])
def test_a_projection_equals_its_numpy_writing(size):
    inputs = tf.keras.Input((size, size, 8))
    model = randomize(tf.keras.Model(inputs, shortcut(inputs, 16, 2, "block")))
    x = np.random.default_rng(1).normal(size=(2, size, size, 8)).astype(np.float32)
    # At an odd border a window's mean is of what is there, so the edge may as well be repeated.
    even = np.pad(x, [(0, 0), (0, size % 2), (0, size % 2), (0, 0)], mode="edge")
    pooled = even.reshape(2, -(-size // 2), 2, -(-size // 2), 2, 8).mean(axis=(2, 4))
    projected = pooled @ model.get_layer("block_shortcut_conv").kernel.numpy()[0, 0]
    expected = norm_by_hand(projected, model.get_layer("block_shortcut_bn"), 1e-3)
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-4)


def test_without_a_stride_the_shortcut_is_the_input_itself():
    inputs = tf.keras.Input((6, 6, 8))
    assert shortcut(inputs, 8, 1, "block") is inputs

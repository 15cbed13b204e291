import functools

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.architectures.reactnet import BLOCKS, _block, reactnet_a
from candle_tf.students.layers.blocks import binary_layers, scaled_channels
from tests.students.layers.test_blocks import _conv_by_hand


@functools.cache
def _published_model() -> tf.keras.Model:
    return reactnet_a((224, 224, 3), classes=1000)


def test_parameters_are_the_published_ones():
    model = _published_model()
    binary = {id(layer.kernel) for layer in binary_layers(model)}
    sizes = {True: 0, False: 0}
    for variable in model.trainable_variables:
        sizes[id(variable) in binary] += int(np.prod(variable.shape))
    assert round(sizes[True] / 1e6, 2) == 28.25
    assert round(sizes[False] / 1e6, 2) == 1.09


def _multiply_adds(layer: tf.keras.layers.Layer) -> int:
    if not isinstance(layer, tf.keras.layers.Conv2D | tf.keras.layers.Dense):
        return 0
    positions = int(np.prod(layer.output_shape[1:-1]))
    return positions * int(np.prod(layer.kernel.shape))


def test_operations_are_the_published_ones():
    model = _published_model()
    binary_names = {layer.name for layer in binary_layers(model)}
    binary = sum(_multiply_adds(layer) for layer in model.layers if layer.name in binary_names)
    in_float = sum(_multiply_adds(x) for x in model.layers if x.name not in binary_names)
    assert round(binary / 1e6) == 4817
    assert round(in_float / 1e6, 1) == 11.9
    assert round((binary / 64 + in_float) / 1e6, 1) == 87.1


def _final_map(model: tf.keras.Model) -> tuple[int, ...]:
    return model.get_layer("block13_point_rprelu").output_shape[1:]


def test_final_map():
    assert _final_map(_published_model()) == (7, 7, 1024)
    small = reactnet_a((32, 32, 3), classes=10, width=0.25, stem_stride=1)
    assert _final_map(small) == (2, 2, 256)


def test_only_stem_and_classifier_are_in_float():
    model = _published_model()
    binary_names = {layer.name for layer in binary_layers(model)}
    others = [x.name for x in model.layers if _multiply_adds(x) and x.name not in binary_names]
    assert others == ["stem_conv", "logits"]
    # 13 spatial ones; one pointwise in each of 8 blocks, two in the 5 that double the width.
    doublings = sum(1 for number, (channels, _) in enumerate(BLOCKS)
                    if channels != (32, *(c for c, _ in BLOCKS))[number])  # fmt: skip
    assert len(binary_names) == 13 + (13 - doublings) + 2 * doublings


def _randomize(model: tf.keras.Model, seed: int = 0) -> tf.keras.Model:
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        if "variance" in variable.name or "gamma" in variable.name:
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        else:
            variable.assign(rng.normal(0, 0.3, variable.shape))
    return model


def test_inner_convolutions_are_binary_in_weights_and_activations():
    model = _randomize(reactnet_a((45, 45, 3), classes=5, width=0.25))
    layers = binary_layers(model)
    probe = tf.keras.Model(model.input, [layer.input for layer in layers])
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 45, 45, 3)).astype(np.float32)
    for layer, activations in zip(layers, probe(pixels, training=True), strict=True):
        assert set(np.unique(activations)) == {-1.0, 1.0}, layer.name
        kernel = layer.kernel_quantizer(tf.convert_to_tensor(layer.kernel)).numpy()
        assert {len(np.unique(channel)) for channel in np.moveaxis(kernel, -1, 0)} == {2}
        assert layer.pad_values == 1.0


@pytest.mark.parametrize(
    ("width", "size"), [(0.25, 45), (0.3, 32), (0.5, 45), (0.75, 45), (1.5, 32)]
)
def test_widths_and_odd_sizes(width, size):
    model = reactnet_a((size, size, 3), classes=5, width=width, stem_stride=1)
    stem = scaled_channels(32, width)
    assert stem == max(8, 8 * round(32 * width / 8))
    assert model.output["features"].shape.as_list() == [None, 32 * stem]
    assert model.output["logits"].shape.as_list() == [None, 5]
    side = size
    for number, (channels, stride) in enumerate(BLOCKS, start=1):
        side = -(-side // stride)
        shape = model.get_layer(f"block{number:02d}_point_rprelu").output_shape[1:]
        assert shape == (side, side, channels * stem // 32)


def test_narrow_student_runs_on_an_odd_image_size():
    model = reactnet_a((45, 45, 3), classes=5, width=0.25, stem_stride=2)
    outputs = model(np.full((2, 45, 45, 3), 128.0, np.float32))
    assert outputs["features"].shape == (2, 256)
    assert np.isfinite(outputs["logits"].numpy()).all()


def test_pixels_are_scaled_inside():
    model = reactnet_a((32, 32, 3), classes=5, width=0.25)
    probe = tf.keras.Model(model.input, model.get_layer("stem_conv").input)
    for value, expected in ((0.0, -1.0), (127.5, 0.0), (255.0, 1.0)):
        scaled = probe(np.full((1, 32, 32, 3), value, np.float32)).numpy()
        np.testing.assert_allclose(scaled, expected, atol=1e-6)


# One block once more in NumPy, float64, from the paper's description.


def _norm(x: np.ndarray, layer: tf.keras.layers.BatchNormalization) -> np.ndarray:
    gamma, beta, mean, variance = (w.astype(np.float64) for w in layer.get_weights())
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def _rprelu(x: np.ndarray, layer: tf.keras.layers.Layer) -> np.ndarray:
    x = x + layer.shift_in.numpy()
    return np.where(x > 0, x, layer.slope.numpy() * x) + layer.shift_out.numpy()


def _binary(signs: np.ndarray, layer: tf.keras.layers.Layer, stride: int) -> np.ndarray:
    kernel = layer.kernel.numpy().astype(np.float64)
    alpha = np.abs(kernel).mean(axis=(0, 1, 2))
    return _conv_by_hand(signs, np.where(kernel >= 0, alpha, -alpha), stride)


def _pool(x: np.ndarray) -> np.ndarray:
    """2 x 2 means; at an odd border of what is there."""
    height, width = (-(-size // 2) for size in x.shape[1:3])
    result = np.empty((len(x), height, width, x.shape[-1]))
    for row in range(height):
        for column in range(width):
            patch = x[:, 2 * row : 2 * row + 2, 2 * column : 2 * column + 2]
            result[:, row, column] = patch.mean(axis=(1, 2))
    return result


def _block_by_hand(x: np.ndarray, get, stride: int, doubles: bool) -> np.ndarray:
    signs = np.where(x + get("spatial_shift").offset.numpy() >= 0, 1.0, -1.0)
    y = _norm(_binary(signs, get("spatial_conv"), stride), get("spatial_bn"))
    y = _rprelu(y + (_pool(x) if stride == 2 else x), get("spatial_rprelu"))
    signs = np.where(y + get("point_shift").offset.numpy() >= 0, 1.0, -1.0)
    branches = ("point_left", "point_right") if doubles else ("point",)
    outputs = [
        _norm(_binary(signs, get(f"{branch}_conv"), 1), get(f"{branch}_bn")) + y
        for branch in branches
    ]
    return _rprelu(np.concatenate(outputs, axis=-1), get("point_rprelu"))


@pytest.mark.parametrize("size", [6, 7])
@pytest.mark.parametrize(("filters", "stride"), [(8, 1), (16, 1), (16, 2)])
def test_a_block_equals_its_numpy_writing(filters, stride, size):
    inputs = tf.keras.Input((size, size, 8))
    model = tf.keras.Model(inputs, _block(inputs, filters, stride, "block"))
    _randomize(model, seed=3)
    x = np.random.default_rng(4).normal(size=(2, size, size, 8)).astype(np.float32)
    expected = _block_by_hand(
        x.astype(np.float64),
        lambda name: model.get_layer(f"block_{name}"),
        stride,
        doubles=filters == 16,
    )
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-4)

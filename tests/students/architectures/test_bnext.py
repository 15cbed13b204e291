import functools
import itertools
from collections.abc import Callable

import numpy as np
import pytest
import tensorflow as tf
from sklearn.datasets import load_digits, load_sample_images

from candle_tf.deploy.checks.agreement import check_agreement
from candle_tf.deploy.checks.operators import check_binary
from candle_tf.deploy.tflite.converter import convert, run
from candle_tf.students.architectures import bnext
from candle_tf.students.architectures.bnext import bnext_l, bnext_m, bnext_s, bnext_t
from candle_tf.students.layers.blocks import binary_layers, is_binary_conv
from tests.students.layers.test_blocks import _conv_by_hand
from tools.student_table import reestimate_batch_norms

# The published channel plans, from the stem on.
PLANS = {
    bnext_t: [32, 64] + [128] * 2 + [256] * 2 + [512] * 6 + [1024] * 2,
    bnext_s: [48, 96] + [192] * 2 + [384] * 2 + [768] * 6 + [1536] * 2,
    bnext_m: [48, 96] + [192] * 4 + [384] * 4 + [768] * 8 + [1536] * 4,
    bnext_l: [64, 128] + [256] * 4 + [512] * 4 + [1024] * 16 + [2048] * 4,
}


def _with_exact_signs(model: tf.keras.Model) -> tf.keras.Model:
    for layer in binary_layers(model):
        layer.kernel_quantizer.set_exact_sign()
    return model


def _randomize(model: tf.keras.Model, seed: int = 0) -> tf.keras.Model:
    """Gives every variable but the temperatures values that matter."""
    rng = np.random.default_rng(seed)
    for variable in model.variables:
        name, shape = variable.name, variable.shape
        if "moving_variance" in name:
            variable.assign(rng.uniform(0.5, 1.5, shape))
        elif "gamma" in name:
            variable.assign(rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape))
        elif "share" in name:
            variable.assign(rng.uniform(0, 1, shape))
        elif "temperature" not in name:
            variable.assign(rng.normal(0, 0.3, shape))
    return model


# Counts.


@functools.cache
def _published_model() -> tf.keras.Model:
    return bnext_t((224, 224, 3), classes=1000)


def _parameters(model: tf.keras.Model) -> tuple[int, int]:
    """Numbers of binary and of float parameters."""
    binary = {id(layer.kernel) for layer in binary_layers(model)}
    sizes = {True: 0, False: 0}
    for variable in model.trainable_variables:
        sizes[id(variable) in binary] += int(np.prod(variable.shape))
    return sizes[True], sizes[False]


def _unused_slopes(plan: list[int]) -> int:
    """PReLUs that the authors' network defines and does not apply, one slope per channel.

    One in the stem; one in each unit, of which only the attention units (the 3x3 ones of blocks of
    even number) use theirs.
    """
    spatial = sum(channels for number, channels in enumerate(plan[:-1], start=1) if number % 2)
    # Two pointwise units where the width doubles.
    pointwise = sum(out for out in plan[1:])
    return plan[0] + spatial + pointwise


def test_parameters_are_the_published_ones():
    binary, in_float = _parameters(_published_model())
    assert round(binary / 1e6, 2) == 28.25
    # What is published counts slopes that nothing depends on; this model does not have them.
    assert round(in_float / 1e6, 2) == 2.60
    unused = _unused_slopes(PLANS[bnext_t])
    assert round((in_float + unused) / 1e6, 2) == 2.61
    assert round((binary + in_float + unused) / 1e6, 2) == 30.86


def _multiply_adds(layer: tf.keras.layers.Layer) -> int:
    if not isinstance(layer, tf.keras.layers.Conv2D | tf.keras.layers.Dense):
        return 0
    positions = int(np.prod(layer.output_shape[1:-1]))
    return positions * int(np.prod(layer.kernel.shape))


def test_operations_are_the_published_ones():
    layers = _published_model().layers
    binary = sum(_multiply_adds(layer) for layer in layers if is_binary_conv(layer))
    in_float = sum(_multiply_adds(layer) for layer in layers if not is_binary_conv(layer))
    assert round((binary / 64 + in_float) / 1e6, 1) == 88.6


def test_binary_plan_is_reactnets():
    """The two networks have the same binary convolutions: 4,817 M multiply-adds."""
    assert round(sum(map(_multiply_adds, binary_layers(_published_model()))) / 1e6) == 4817


def _counted_from_plan(plan: list[int], classes: int) -> tuple[int, int]:
    """Binary and float parameters of a plan of widths, each unit summed over its layers."""

    def unit(channels: int, attention: bool) -> int:
        gate = 2 * channels * (channels // 8) + channels // 8 + channels
        # Shift, two batch normalisations, slopes, shares; slopes of the shortcut.
        return gate + channels * (1 + 4 + 1 + 1 + attention)

    binary, in_float = 0, 3 * 9 * plan[0] + 2 * plan[0]
    for number, (channels, out) in enumerate(itertools.pairwise(plan), start=1):
        pointwise = out // channels
        binary += (9 + pointwise) * channels**2
        in_float += unit(channels, number % 2 == 0) + pointwise * unit(channels, False)
    return binary, in_float + plan[-1] + (plan[-1] + 1) * classes


@pytest.mark.parametrize("build", PLANS)
def test_every_size_has_its_published_plan(build):
    model = build((64, 64, 3), classes=10, width=1 / 4)
    factor = int(model.get_layer("stem_conv").filters) / PLANS[build][0]
    # 12 is no multiple of 8: the S and M stems become 16.
    assert factor == (1 / 3 if PLANS[build][0] == 48 else 1 / 4)
    plan = [round(channels * factor) for channels in PLANS[build]]
    assert _parameters(model) == _counted_from_plan(plan, 10)
    blocks = [
        layer.input_shape[-1]
        for layer in model.layers
        if is_binary_conv(layer) and layer.kernel_size == (3, 3)
    ]
    assert blocks == plan[:-1]
    assert model.output["features"].shape[-1] == plan[-1]
    assert model.get_layer("head_prelu").output_shape[1:3] == (2, 2)
    assert model.name == build.__name__


# Structure.


def _side_after(model: tf.keras.Model, number: int) -> tuple[int, int]:
    names = {layer.name for layer in model.layers}
    name = f"block{number:02d}"
    last = f"{name}_concat" if f"{name}_concat" in names else f"{name}_point_gated_bn"
    return model.get_layer(last).output_shape[1:3]


@pytest.mark.parametrize(("width", "size", "stem_stride"), [(0.25, 45, 2), (0.3, 33, 1)])
def test_widths_odd_sizes_and_stem_strides(width, size, stem_stride):
    model = bnext_t((size, size, 3), classes=5, width=width, stem_stride=stem_stride)
    stem = model.get_layer("stem_conv").filters
    assert stem == max(8, 8 * round(32 * width / 8))
    assert model.output["features"].shape.as_list() == [None, 32 * stem]
    assert model.output["logits"].shape.as_list() == [None, 5]
    side = -(-size // stem_stride)
    assert model.get_layer("stem_conv").output_shape[1:3] == (side, side)
    for number in range(1, 14):
        side = -(-side // 2) if number in (2, 4, 6, 12) else side
        assert _side_after(model, number) == (side, side)


def test_narrow_student_runs_on_an_odd_image_size():
    model = bnext_t((45, 37, 3), classes=5, width=0.25, stem_stride=2)
    outputs = model(np.full((2, 45, 37, 3), 128.0, np.float32))
    assert outputs["features"].shape == (2, 256)
    assert np.isfinite(outputs["logits"].numpy()).all()


def test_pixels_are_scaled_inside():
    model = bnext_t((32, 32, 3), classes=5, width=0.25)
    probe = tf.keras.Model(model.input, model.get_layer("stem_conv").input)
    for value, expected in ((0.0, -1.0), (127.5, 0.0), (255.0, 1.0)):
        scaled = probe(np.full((1, 32, 32, 3), value, np.float32)).numpy()
        np.testing.assert_allclose(scaled, expected, atol=1e-6)


def test_only_stem_gates_and_classifier_are_in_float():
    layers = _published_model().layers
    others = [x.name for x in layers if _multiply_adds(x) and not is_binary_conv(x)]
    gates = [name for name in others if name.endswith(("_gate_squeeze", "_gate_excite"))]
    assert [name for name in others if name not in gates] == ["stem_conv", "logits"]
    # A gate of two layers behind each binary convolution.
    assert len(gates) == 2 * len(binary_layers(_published_model())) == 2 * (13 + 8 + 2 * 5)


def test_inner_convolutions_are_binary_in_weights_and_activations():
    model = _with_exact_signs(_randomize(bnext_t((45, 45, 3), classes=5, width=0.25)))
    layers = binary_layers(model)
    probe = tf.keras.Model(model.input, [layer.input for layer in layers])
    pixels = np.random.default_rng(1).uniform(0, 255, (2, 45, 45, 3)).astype(np.float32)
    for layer, activations in zip(layers, probe(pixels, training=True), strict=True):
        assert set(np.unique(activations)) == {-1.0, 1.0}, layer.name
        kernel = layer.kernel_quantizer(tf.convert_to_tensor(layer.kernel)).numpy()
        assert set(np.unique(kernel)) == {-1.0, 1.0}, layer.name
        assert layer.pad_values == 1.0


# A gated unit once more in NumPy, float64, from the paper's description.


class StraightThrough:
    """Signs whose derivative is a clip's, for finite differences of what training sees.

    The first round records the value at each sign; in later rounds it changes from there as
    clip(x, -region, region) does: f(x) = sign(x0) + clip(x) - clip(x0).
    """

    def __init__(self) -> None:
        self.start: dict[str, np.ndarray] = {}

    def __call__(self, x: np.ndarray, key: str, region: float) -> np.ndarray:
        start = self.start.setdefault(key, x)
        moved = np.clip(x, -region, region) - np.clip(start, -region, region)
        return np.where(start >= 0, 1.0, -1.0) + moved


def _norm(x: np.ndarray, weights: list[np.ndarray]) -> np.ndarray:
    gamma, beta, mean, variance = weights
    return gamma * (x - mean) / np.sqrt(variance + 1e-5) + beta


def _prelu(x: np.ndarray, slope: np.ndarray) -> np.ndarray:
    return np.where(x > 0, x, slope * x)


def _pool(x: np.ndarray, stride: int) -> np.ndarray:
    """Means of stride x stride; at an odd border of what is there."""
    height, width = (-(-size // stride) for size in x.shape[1:3])
    result = np.empty((len(x), height, width, x.shape[-1]))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            patch = x[:, top : top + stride, left : left + stride]
            result[:, row, column] = patch.mean(axis=(1, 2))
    return result


def _gate(x: np.ndarray, reduce: list[np.ndarray], excite: list[np.ndarray]) -> np.ndarray:
    y = np.maximum(x.mean(axis=(1, 2)) @ reduce[0][0, 0] + reduce[1], 0)
    return (1 / (1 + np.exp(-(y @ excite[0][0, 0] + excite[1]))))[:, None, None]


Weights = dict[str, list[np.ndarray]]


def _unit_by_hand(
    x: np.ndarray, of: Weights, stride: int, attention: bool, sign: StraightThrough
) -> np.ndarray:
    signs = sign(x + of["shift"][0], "activations", 1.5)
    y = _conv_by_hand(signs, sign(of["conv"][0], "kernel", np.inf), stride)
    y = _prelu(_norm(y, of["bn"]), of["prelu"][0])
    share = of["mix"][0]
    mixed = share * _pool(x, stride) + (1 - share) * y
    y = y * _gate(mixed, of["gate_squeeze"], of["gate_excite"])
    if attention:
        shortcut = _pool(_prelu(x, of["shortcut_prelu"][0]), stride)
        return _norm(y * shortcut, of["gated_bn"]) + shortcut
    return _norm(y, of["gated_bn"]) + _pool(x, stride)


def _unit_model(
    size: int, kernel_size: int, stride: int, attention: bool
) -> tuple[tf.keras.Model, Weights]:
    inputs = tf.keras.Input((size, size, 16))
    outputs = bnext._unit(inputs, kernel_size, stride, attention, "unit")
    model = _with_exact_signs(_randomize(tf.keras.Model(inputs, outputs), seed=3))
    weights = {
        layer.name.removeprefix("unit_"): [w.astype(np.float64) for w in layer.get_weights()]
        for layer in model.layers
    }
    return model, weights


UNITS = [(1, 1, False), (3, 1, False), (3, 2, False), (3, 1, True), (3, 2, True)]


@pytest.mark.parametrize("size", [4, 5])
@pytest.mark.parametrize(("kernel_size", "stride", "attention"), UNITS)
def test_a_unit_equals_its_numpy_writing(kernel_size, stride, attention, size):
    model, weights = _unit_model(size, kernel_size, stride, attention)
    x = np.random.default_rng(4).normal(size=(2, size, size, 16)).astype(np.float32)
    expected = _unit_by_hand(x.astype(np.float64), weights, stride, attention, StraightThrough())
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-4)


def _slope(function: Callable[[float], float]) -> float:
    return (function(1e-6) - function(-1e-6)) / 2e-6


@pytest.mark.parametrize(("kernel_size", "stride", "attention"), UNITS)
def test_gradients_of_a_unit_by_finite_differences(kernel_size, stride, attention):
    """Along a random direction of the input, and of each weight; signs by their stated rule."""
    model, weights = _unit_model(4, kernel_size, stride, attention)
    rng = np.random.default_rng(5)
    start = rng.normal(size=(2, 4, 4, 16)).astype(np.float32)
    x = tf.Variable(start)
    with tf.GradientTape() as tape:
        y = model(x, training=False)
        upstream = rng.normal(size=y.shape)
        total = tf.reduce_sum(y * tf.constant(upstream, tf.float32))
    gradients = tape.gradient(total, [x, *model.trainable_variables])
    names = ["x", *(variable.name for variable in model.trainable_variables)]

    sign = StraightThrough()
    x64 = start.astype(np.float64)
    _unit_by_hand(x64, weights, stride, attention, sign)
    assert (np.abs(sign.start["activations"]) > 1.5).any()

    def with_change(layer: str, index: int, by: np.ndarray) -> Weights:
        arrays = list(weights[layer])
        arrays[index] = arrays[index] + by
        return {**weights, layer: arrays}

    def value(inputs: np.ndarray, of: Weights) -> float:
        return float((_unit_by_hand(inputs, of, stride, attention, sign) * upstream).sum())

    places: list[tuple[str, int] | None] = [None]
    for layer in model.layers:
        places += [
            (layer.name.removeprefix("unit_"), index)
            for index in range(len(layer.trainable_variables))
        ]
    assert len(places) == len(gradients)
    for name, place, gradient in zip(names, places, gradients, strict=True):
        direction = rng.normal(size=gradient.shape)
        if place is None:
            expected = _slope(lambda step, d=direction: value(x64 + step * d, weights))
        else:
            layer, index = place
            expected = _slope(
                lambda step, layer=layer, index=index, d=direction: value(
                    x64, with_change(layer, index, step * d)
                )
            )
        scale = np.linalg.norm(gradient) * np.linalg.norm(direction)
        assert scale > 0, name
        actual = float((gradient.numpy().astype(np.float64) * direction).sum())
        assert abs(actual - expected) < 1e-4 * scale, name


# Training and shipping.


def test_trains_on_digits_with_a_falling_loss():
    tf.keras.utils.set_random_seed(0)
    # Four blocks, one with attention and a stride: all there is in a BNext, at a tenth of the time.
    model = bnext._bnext("bnext", 16, (1, 2, 1), (16, 16, 3), 10, width=1.0, stem_stride=1)
    digits = load_digits()
    grey = tf.image.resize(digits.images[:128, ..., None] * (255 / 16), (16, 16))
    pixels, labels = tf.repeat(grey, 3, axis=-1), tf.constant(digits.target[:128])
    optimizer = tf.keras.optimizers.Adam(3e-3, jit_compile=False)

    # Eager: so few steps are over before they would be compiled.
    def step() -> tf.Tensor:
        with tf.GradientTape() as tape:
            logits = model(pixels, training=True)["logits"]
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_mean(losses)
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))
        return loss

    losses = []
    for _ in range(12):
        losses.append(float(step()))
        for layer in binary_layers(model):
            layer.kernel_quantizer.anneal(0.9)
    assert np.isfinite(losses).all()
    assert np.mean(losses[-3:]) < 0.8 * np.mean(losses[:3])
    for layer in binary_layers(model):
        assert np.abs(layer.kernel.numpy()).max() <= 1.5
    shares = [v.numpy() for v in model.trainable_variables if "share" in v.name]
    assert all(((share >= 0) & (share <= 1)).all() for share in shares)


def _photographs(count: int, size: int) -> np.ndarray:
    """Real crops, uint8 [count, size, size, 3]."""
    rng = np.random.default_rng(1)
    images = load_sample_images().images
    crops = []
    for number in range(count):
        image = images[number % len(images)]
        top, left = (int(rng.integers(0, length - 200)) for length in image.shape[:2])
        crop = tf.image.resize(image[top : top + 200, left : left + 200], (size, size))
        crops.append(np.round(crop.numpy()).astype(np.uint8))
    return np.stack(crops)


def test_converts_binary_and_computes_the_same():
    pixels = _photographs(40, 32)
    student = bnext_t((32, 32, 3), classes=10, width=0.25, stem_stride=1)
    reestimate_batch_norms(_with_exact_signs(_randomize(student)), pixels.astype(np.float32))
    expected = student(pixels.astype(np.float32), training=False)["logits"].numpy()
    # No image's logits dwarf the others'.
    largest = np.abs(expected).max(axis=1)
    assert largest.max() < 10 * np.median(largest)
    flatbuffer = convert(student)
    counts = check_binary(flatbuffer, student)
    assert counts["LceBconv2d"] == len(binary_layers(student))
    # Stem and two for each gate.
    assert counts["CONV_2D"] == 1 + 2 * len(binary_layers(student))
    # None of the reshapes that dense gates would need.
    assert not {"RESHAPE", "SHAPE", "TRANSPOSE"} & set(counts)
    check_agreement(expected, run(flatbuffer, pixels), "bnext_t")

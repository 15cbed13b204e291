"""The ports of EfficientNet-Lite see a cat, and have every weight in its place."""

import io
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from skimage import data

import candle_tf  # noqa: F401  (chooses Keras 2)

import tensorflow as tf  # isort: skip
import keras_cv

from candle_tf.errors import UserError
from candle_tf.teachers.efficientnet_lite import (
    VARIANTS,
    efficientnet_lite,
    imagenet_head,
    normalise,
    package_weights,
)
from candle_tf.weight_files.torch_pickle import read_state_dict

LITE0 = "efficientnet_lite0"
TABBY, TIGER_CAT, EGYPTIAN_CAT = 281, 282, 285


@pytest.fixture(scope="module")
def backbone():
    return efficientnet_lite(LITE0)


@pytest.fixture(scope="module", params=list(VARIANTS))
def variant(request):
    """The name of a variant, and its backbone."""
    pytest.importorskip(VARIANTS[request.param].package.replace("-", "_"))
    return request.param, efficientnet_lite(request.param)


def test_a_real_cat_is_an_egyptian_cat(variant):
    name, backbone = variant
    pixels = tf.image.resize(data.chelsea()[None], (224, 224), antialias=True)
    kernel, bias = imagenet_head(name)
    features = tf.reduce_mean(backbone(normalise(pixels), training=False), axis=[1, 2])
    probabilities = tf.nn.softmax(features @ kernel + bias)[0].numpy()

    ranking = probabilities.argsort()[::-1]
    assert ranking[0] == EGYPTIAN_CAT
    assert set(ranking[1:3]) == {TABBY, TIGER_CAT}
    assert probabilities[EGYPTIAN_CAT] > 0.4


def test_every_weight_of_the_backbone_comes_from_the_file(variant):
    name, backbone = variant
    state = read_state_dict(package_weights(name), "test")
    sums = sorted(
        float(np.sum(v, dtype=np.float64))
        for key, v in state.items()
        if not key.startswith("_fc.") and not key.endswith(".num_batches_tracked")
    )
    assert len(backbone.weights) == len(sums)
    found = sorted(float(np.sum(w.numpy(), dtype=np.float64)) for w in backbone.weights)
    np.testing.assert_allclose(found, sums, rtol=1e-9, atol=1e-9)


def test_batch_norm_is_that_of_the_original(backbone):
    norms = [x for x in backbone.layers if isinstance(x, tf.keras.layers.BatchNormalization)]
    assert {layer.epsilon for layer in norms} == {1e-3}
    state = read_state_dict(package_weights(LITE0), "test")
    last = backbone.get_layer("top_bn")
    for name, value in zip(
        ("weight", "bias", "running_mean", "running_var"), last.weights, strict=True
    ):
        np.testing.assert_array_equal(value.numpy(), state[f"_bn1.{name}"])


def test_convolutions_are_turned_as_the_layouts_differ(backbone):
    state = read_state_dict(package_weights(LITE0), "test")
    stem = backbone.get_layer("stem_conv").weights[0].numpy()
    depthwise = backbone.get_layer("block6c_dwconv").weights[0].numpy()
    blocks_before = 1 + 2 + 2 + 3 + 3
    theirs = state[f"_blocks.{blocks_before + 2}._depthwise_conv.weight"]
    for h, w, i, o in ((0, 2, 1, 31), (2, 0, 0, 5)):
        assert stem[h, w, i, o] == state["_conv_stem.weight"][o, i, h, w]
        assert depthwise[h, w, o, 0] == theirs[o, 0, h, w]


def test_even_maps_are_convolved_exactly_as_kerascv_does(backbone):
    stock = keras_cv.models.EfficientNetLiteBackbone(
        stackwise_kernel_sizes=[3, 3, 5, 3, 5, 5, 3],
        stackwise_num_repeats=[1, 2, 2, 3, 3, 4, 1],
        stackwise_input_filters=[32, 16, 24, 40, 80, 112, 192],
        stackwise_output_filters=[16, 24, 40, 80, 112, 192, 320],
        stackwise_expansion_ratios=[1, 6, 6, 6, 6, 6, 6],
        stackwise_strides=[1, 2, 2, 2, 1, 2, 1],
        width_coefficient=1.0,
        depth_coefficient=1.0,
        include_rescaling=False,
    )
    stock.set_weights(backbone.get_weights())
    pixels = np.random.default_rng(0).normal(size=(1, 64, 96, 3)).astype("float32")
    np.testing.assert_allclose(
        backbone(pixels, training=False), stock(pixels, training=False), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize(("height", "width"), [(8, 8), (1, 1), (33, 65), (45, 31)])
def test_any_size_gives_maps_of_a_thirty_second_rounded_up(backbone, height, width):
    maps = backbone(tf.zeros([1, height, width, 3]), training=False)
    assert maps.shape == (1, -(-height // 32), -(-width // 32), 1280)


def test_normalise_against_its_definition():
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 3, 3, 3))
    mean, deviation = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    expected = (pixels / 255 - mean) / deviation
    np.testing.assert_allclose(normalise(tf.constant(pixels, tf.float32)), expected, atol=1e-5)


def test_a_package_file_that_is_not_the_published_one_is_refused():
    with pytest.raises(UserError, match="sha256"):
        package_weights(LITE0, "0" * 64)


def test_the_head_has_its_shapes():
    kernel, bias = imagenet_head(LITE0)
    assert kernel.shape == (1280, 1000)
    assert bias.shape == (1000,)


class _Storage:
    def __init__(self, key, elements):
        self.key, self.elements = key, elements


class _Named:
    def __init__(self, name):
        self.name = name


class _Writer(pickle._Pickler):
    dispatch = pickle._Pickler.dispatch.copy()

    def persistent_id(self, obj):
        if isinstance(obj, _Storage):
            return ("storage", _Named("torch\nFloatStorage\n"), obj.key, "cpu", obj.elements, None)
        return None

    def save_named(self, obj):
        self.write(pickle.GLOBAL + obj.name.encode())

    dispatch[_Named] = save_named

    def save_array(self, obj):
        strides = tuple(s // obj.itemsize for s in np.empty(obj.shape, "<f4").strides)
        self.save(_Named("torch._utils\n_rebuild_tensor_v2\n"))
        self.save((_Storage(str(id(obj)), obj.size), 0, obj.shape, strides, False, OrderedDict()))
        self.write(pickle.REDUCE)

    dispatch[np.ndarray] = save_array


def legacy_file(state):
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    keys = [str(id(value)) for value in state.values()]
    stream = io.BytesIO()
    for value in (0x1950A86A20F9469CFC6C, 1001, system, state, keys):
        _Writer(stream, 2).dump(value)
    for value in state.values():
        stream.write(value.size.to_bytes(8, "little") + value.tobytes())
    return stream.getvalue()


@pytest.fixture(scope="module")
def state():
    weights = read_state_dict(package_weights(LITE0), "test")
    return {name: np.array(value) for name, value in weights.items() if value.dtype == np.float32}


def test_a_file_of_ones_own_is_used_instead_of_the_package(state):
    changed = dict(state)
    changed["_bn1.bias"] = np.full([1280], 7.0, np.float32)
    backbone = efficientnet_lite(LITE0, legacy_file(changed), "own.pth")
    np.testing.assert_array_equal(backbone.get_layer("top_bn").get_weights()[1], 7.0)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"_blocks.3._bn2.running_var": None}, r"misses .*_blocks\.3\._bn2\.running_var"),
        (
            {"_conv_stem.weight": np.zeros((32, 3, 5, 5), "<f4")},
            r"\[32, 3, 3, 3\].*\[32, 3, 5, 5\]",
        ),
        ({"_blocks.0._bn0.weight": np.zeros(3, "<f4")}, r"unknown .*_blocks\.0\._bn0\.weight"),
        ({"_fc.weight": np.zeros((10, 1280), "<f4")}, r"_fc\.weight.*\[10, 1280\]"),
    ],
)
def test_weights_of_another_network_are_refused(state, change, named):
    changed = {k: v for k, v in (state | change).items() if v is not None}
    with pytest.raises(UserError, match=rf"own\.pth.*{named}"):
        efficientnet_lite(LITE0, legacy_file(changed), "own.pth")

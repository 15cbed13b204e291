import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.teachers.backbones import load_teacher
from candle_tf.teachers.folding import fold_batch_norms

L = tf.keras.layers


def _network() -> tf.keras.Model:
    """Every kind of pair, foldable and not, with statistics far from their start."""
    inputs = tf.keras.Input((None, None, 3))
    x = L.BatchNormalization(name="first")(inputs)
    x = L.Conv2D(4, 3, use_bias=False, name="plain")(x)
    x = L.BatchNormalization(name="plain_bn")(x)
    x = L.ReLU()(x)
    x = L.DepthwiseConv2D(3, depth_multiplier=2, padding="same", name="depthwise")(x)
    x = L.BatchNormalization(epsilon=0.1, name="depthwise_bn")(x)
    x = L.Conv2D(5, 1, name="bare", use_bias=False)(x)
    x = L.BatchNormalization(scale=False, center=False, name="bare_bn")(x)
    x = L.Conv2D(5, 1, activation="relu", name="active")(x)
    x = L.BatchNormalization(name="active_bn")(x)
    shared = L.Conv2D(5, 1, name="shared")(x)
    x = L.Add()([L.BatchNormalization(name="shared_bn")(shared), shared])
    model = tf.keras.Model(inputs, x)
    rng = np.random.default_rng(0)
    model.set_weights([
        rng.uniform(0.2, 3.0, w.shape) if "variance" in w.name else rng.normal(0, 1, w.shape)
        for w in model.weights
    ])  # fmt: skip
    return model


def test_the_maps_are_the_same_and_the_network_is_not_touched():
    model = _network()
    before = model.get_weights()
    x = np.random.default_rng(1).normal(0, 2, (2, 9, 11, 3)).astype(np.float32)
    wanted = model(x, training=False).numpy()
    assert np.abs(wanted).max() > 1
    np.testing.assert_allclose(
        fold_batch_norms(model)(x, training=False), wanted, rtol=1e-4, atol=1e-4
    )
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_only_foldable_batch_norms_are_folded():
    copy = fold_batch_norms(_network())
    norms = [layer.name for layer in copy.layers if isinstance(layer, L.BatchNormalization)]
    assert norms == ["first", "active_bn", "shared_bn"]
    assert copy.get_layer("plain").use_bias


@pytest.mark.parametrize("side", [64, 97])
def test_the_offline_teacher_has_no_batch_norm_left(side):
    teacher = load_teacher("efficientnet_lite0")
    pixels = np.random.default_rng(2).uniform(0, 255, (2, side, side, 3)).astype(np.float32)
    wanted = teacher.encoder(pixels).numpy()
    assert wanted.max() > 0.1
    np.testing.assert_allclose(teacher.features(pixels), wanted, rtol=1e-3, atol=1e-4)
    graph = teacher._compiled.get_concrete_function(tf.TensorSpec([2, side, side, 3])).graph
    # Keras calls a batch norm through a function of the graph, or as an operation.
    operations = {op.type for op in graph.get_operations()}
    assert "DepthwiseConv2dNative" in operations
    assert not any("BatchNorm" in operation for operation in operations)

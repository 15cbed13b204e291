"""Maps at earlier strides: which they are, their values, and that no weight is copied."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.errors import UserError
from candle_tf.teachers.backbones import Backbone, load_teacher
from candle_tf.teachers.earlier_maps import with_earlier_maps
from candle_tf.teachers.efficientnet_lite import efficientnet_lite, normalise
from candle_tf.teachers.registry import TEACHERS
from candle_tf.weight_files.checksums import fingerprint


def pixels(side: int = 48) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (3, side, side, 3)).astype(np.float32)


def network(pool: bool = False) -> tf.keras.Model:
    """Strides 1, 2, 4 and 8; with a gate, a shortcut of a strided block, and padding by zeros."""
    layers = tf.keras.layers
    inputs = tf.keras.Input([None, None, 3])
    x = layers.Rescaling(1 / 255.0)(inputs)
    x = layers.Conv2D(4, 3, 2, "same", name="stem")(x)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(x)
    gate = layers.Conv2D(4, 1, activation="sigmoid")(gate)
    x = layers.Multiply(name="gated")([x, gate])
    # A block with a stride: what its inner layers give is only a part of what is passed on.
    inner = layers.Conv2D(5, 1, activation="relu", name="inner")(x)
    inner = layers.Conv2D(6, 3, 2, "same", name="strided")(inner)
    shortcut = layers.Conv2D(6, 1, 2, name="shortcut")(x)
    x = layers.Add(name="block")([inner, shortcut])
    x = layers.ReLU(name="last_at_4")(x)
    x = layers.ZeroPadding2D(1, name="padded")(x)
    x = layers.Conv2D(7, 3, 2, name="last", activation="relu")(x)
    if pool:
        x = layers.GlobalAveragePooling2D()(x)
    return tf.keras.Model(inputs, x)


@pytest.mark.parametrize("pool", [False, True])
def test_each_stride_gives_its_last_map_that_all_later_ones_come_from(pool):
    tf.keras.utils.set_random_seed(1)
    backbone = network(pool)
    model = with_earlier_maps(backbone, 3, "mine")
    names = ["last", "last_at_4", "gated"]
    wanted = [backbone.get_layer(name).output for name in names]
    expected = tf.keras.Model(backbone.inputs, [backbone.output, *wanted[1:]])(pixels())
    found = model(pixels())
    assert [output.shape[1:] for output in found[1:]] == [(12, 12, 6), (24, 24, 4)]
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert [id(weight) for weight in model.weights] == [id(weight) for weight in backbone.weights]
    assert fingerprint(model) == fingerprint(backbone)


def test_one_layer_is_the_backbone_itself():
    backbone = network()
    assert with_earlier_maps(backbone, 1, "mine") is backbone


class Subclass(tf.keras.Model):
    def call(self, inputs):
        return inputs[:, ::2, ::2]


def test_a_teacher_that_is_no_functional_model_has_one_layer(monkeypatch):
    monkeypatch.setitem(TEACHERS._targets, "mine", lambda *_: Backbone(Subclass(), tf.identity))
    teacher = load_teacher("mine")
    assert [part.size for part in teacher.parts] == [3]
    expected = pixels()[:, ::2, ::2].mean(axis=(1, 2))
    np.testing.assert_allclose(teacher.features(pixels()), expected, rtol=1e-5)
    with pytest.raises(UserError, match="no functional Keras model"):
        load_teacher("mine", layers=2)


def flat():
    inputs = tf.keras.Input([None, None, 3])
    return tf.keras.Model(inputs, tf.keras.layers.Conv2D(2, 3, padding="same")(inputs))


@pytest.mark.parametrize(
    ("build", "layers", "message"),
    [
        (network, 4, r"--teacher_layers=4 needs .* 'mine' has 3: give at most --teacher_layers=3"),
        (flat, 2, "has 0: give at most --teacher_layers=1"),
        (Subclass, 2, "no functional Keras model"),
    ],
)
def test_strides_that_are_not_there_are_refused(build, layers, message):
    with pytest.raises(UserError, match=message):
        with_earlier_maps(build(), layers, "mine")


def test_layers_that_are_models_themselves_are_found():
    inputs = tf.keras.Input([None, None, 3])
    nested = tf.keras.Sequential([tf.keras.layers.Conv2D(4, 3, 2, "same")])
    x = tf.keras.layers.Conv2D(5, 3, 2, "same")(nested(inputs))
    outputs = with_earlier_maps(tf.keras.Model(inputs, x), 2, "mine")(pixels())
    np.testing.assert_allclose(outputs[1], nested(pixels()), rtol=1e-5)


def test_efficientnet_gives_the_expansions_before_its_strides():
    """Pooled in NumPy, from the network as it is loaded; features run with folded batch norms."""
    teacher = load_teacher("efficientnet_lite0", layers=3)
    assert [part.size for part in teacher.parts] == [1280, 672, 240]
    plain = efficientnet_lite("efficientnet_lite0")
    names = ["top_activation", "block6a_expand_activation", "block4a_expand_activation"]
    maps = tf.keras.Model(plain.inputs, [plain.get_layer(name).output for name in names])
    pooled = [np.mean(each, axis=(1, 2)) for each in maps(normalise(pixels(64)), training=False)]
    expected = np.concatenate(pooled, axis=1)
    np.testing.assert_allclose(teacher.features(pixels(64)), expected, rtol=1e-3, atol=2e-4)
    np.testing.assert_allclose(teacher.encoder(pixels(64)), expected, rtol=1e-4, atol=1e-4)
    assert teacher.fingerprint == fingerprint(plain)


def test_a_registered_teacher_without_earlier_strides_is_refused_when_it_is_loaded(monkeypatch):
    monkeypatch.setitem(TEACHERS._targets, "flat", lambda *_: Backbone(flat(), tf.identity))
    with pytest.raises(UserError, match="teacher 'flat' has 0"):
        load_teacher("flat", layers=2)
    assert load_teacher("flat").feature_size == 2

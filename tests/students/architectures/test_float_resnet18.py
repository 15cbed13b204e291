import numpy as np
import pytest
import tensorflow as tf

from candle_tf.students.architectures.float_resnet18 import _block, float_resnet18
from candle_tf.students.layers.blocks import binary_layers
from tests.deploy.test_binarize import randomize
from tests.students.architectures.test_resnet18 import conv3x3_by_hand, norm_by_hand


def test_parameters_are_those_of_resnet18():
    # As torchvision counts them.
    model = float_resnet18((224, 224, 3), classes=1000)
    assert sum(tf.size(w).numpy() for w in model.trainable_weights) == 11_689_512
    assert binary_layers(model) == []


@pytest.mark.parametrize("size", [3, 6, 7])
@pytest.mark.parametrize(("filters", "stride"), [(8, 1), (16, 2)])
def test_a_block_equals_its_numpy_writing(filters, stride, size):
    inputs = tf.keras.Input((size, size, 8))
    model = randomize(tf.keras.Model(inputs, _block(inputs, filters, stride, "block")), seed=3)
    x = np.random.default_rng(4).normal(size=(2, size, size, 8)).astype(np.float32)
    y = conv3x3_by_hand(x, model.get_layer("block_conv").kernel.numpy(), stride)
    added = x
    if stride == 2:
        added = tf.keras.Model(inputs, model.get_layer("block_shortcut_bn").output)(x).numpy()
    expected = np.maximum(norm_by_hand(y, model.get_layer("block_bn"), 1e-3) + added, 0)
    assert 0.1 < (expected > 0).mean() < 0.9
    np.testing.assert_allclose(model(x, training=False), expected, rtol=1e-4, atol=1e-4)

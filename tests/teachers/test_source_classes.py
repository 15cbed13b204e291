"""A teacher's own classes: its classifier, or prototypes of its features."""

import numpy as np
import pytest

from candle_tf.errors import UserError
from candle_tf.teachers.efficientnet_lite import imagenet_head
from candle_tf.teachers.source_classes import prototypes, source_classifier


def groups(seed=0):
    """60 features around each of 5 far points."""
    rng = np.random.default_rng(seed)
    points = 10 * rng.normal(size=(5, 16))
    return (points[:, None] + rng.normal(size=(5, 60, 16))).reshape(-1, 16).astype(np.float32)


def test_efficientnet_brings_imagenets_classifier():
    kernel, bias = source_classifier("efficientnet_lite0", groups())
    for found, expected in zip((kernel, bias), imagenet_head("efficientnet_lite0"), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_prototypes_classify_by_the_nearest():
    features = groups()
    kernel, bias = prototypes(features, count=5)
    classes = (features @ kernel + bias).argmax(axis=1).reshape(5, 60)
    assert (classes == classes[:, :1]).all()
    assert len(set(classes[:, 0])) == 5
    # Logits are -|e - c|^2 / (2 s) up to a constant of each feature: so are their differences.
    scale = -2 * bias[0] / np.sum((kernel[:, 0] / 1.0) ** 2)
    centres = kernel * scale
    squares = ((features[:, :, None] - centres) ** 2).sum(axis=1)
    logits = features @ kernel + bias
    expected = -(squares - squares[:, :1]) / (2 * scale)
    np.testing.assert_allclose(logits - logits[:, :1], expected, rtol=1e-2, atol=1e-2)


def test_prototypes_are_neither_sure_nor_blind():
    features = np.random.default_rng(1).normal(size=(2000, 16)).astype(np.float32)
    kernel, bias = prototypes(features, count=64)
    logits = features @ kernel + bias
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert (e.max(axis=1) / e.sum(axis=1)).mean() == pytest.approx(0.5, abs=0.01)


def test_the_seed_decides():
    features = groups(2)
    same = [prototypes(features, seed=3, count=7)[0] for _ in range(2)]
    np.testing.assert_array_equal(*same)


def test_few_features_make_few_prototypes_and_fewer_none():
    assert prototypes(groups()[:40])[0].shape == (16, 10)
    with pytest.raises(UserError, match="7 images are too few"):
        prototypes(groups()[:7])

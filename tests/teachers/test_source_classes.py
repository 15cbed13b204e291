"""A teacher's own classes: its classifier, or prototypes of its features."""

import numpy as np
import pytest

from candle_tf.errors import UserError
from candle_tf.teachers.efficientnet_lite import imagenet_head
from candle_tf.teachers.feature_parts import FeaturePart, at_resolutions
from candle_tf.teachers.source_classes import draw_rows, prototypes, source_classifier


def groups(seed=0):
    """60 features around each of 5 far points."""
    rng = np.random.default_rng(seed)
    points = 10 * rng.normal(size=(5, 16))
    return (points[:, None] + rng.normal(size=(5, 60, 16))).reshape(-1, 16).astype(np.float32)


def test_efficientnet_brings_imagenets_classifier():
    parts = [FeaturePart("efficientnet_lite0", 1280)]
    kernel, bias = source_classifier(parts, groups)
    for found, expected in zip((kernel, bias), imagenet_head("efficientnet_lite0"), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_of_several_parts_the_first_that_brings_a_classifier_gives_it():
    """An earlier layer and another teacher have no part in the logits; resolutions are averaged."""
    parts = at_resolutions(
        [
            FeaturePart("keras_cv:resnet18", 3),
            FeaturePart("efficientnet_lite0", 1280, scale=4.0),
            FeaturePart("efficientnet_lite0", 672, layer=1, scale=0.5),
            FeaturePart("efficientnet_lite1", 1280),
        ],
        2,
    )
    columns = [np.random.default_rng(i).normal(size=(6, part.size)) for i, part in enumerate(parts)]
    scaled = [part.scale * each for part, each in zip(parts, columns, strict=True)]
    joined = np.concatenate(scaled, axis=1)
    kernel, bias = source_classifier(parts, lambda: joined)
    head, offset = imagenet_head("efficientnet_lite0")
    expected = 0.5 * (columns[1] @ head + columns[5] @ head) + offset
    np.testing.assert_allclose(joined @ kernel + bias, expected, rtol=1e-4, atol=1e-4)


def test_where_no_part_brings_a_classifier_prototypes_are_of_all_features():
    features = groups()
    parts = [FeaturePart("mine", 10), FeaturePart("efficientnet_lite0", 6, layer=1)]
    for found, expected in zip(
        source_classifier(parts, lambda: features, seed=2),
        prototypes(features, seed=2),
        strict=True,
    ):
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


def test_the_first_classes_alone_do_not_decide_how_sure_prototypes_are():
    """Features are in order of their images' paths: the first ones are of a few classes."""
    rng = np.random.default_rng(4)
    # Alike: a seventh of the spread of the others.
    features = rng.normal(size=(12_000, 8)).astype(np.float32)
    features[:5000] /= 7
    kernel, bias = prototypes(features, count=32)
    logits = features @ kernel + bias
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    assert (e.max(axis=1) / e.sum(axis=1)).mean() == pytest.approx(0.5, abs=0.02)


def test_rows_are_drawn_from_all_blocks_alike():
    rows = np.arange(9000, dtype=np.float32)[:, None]
    blocks = [rows[start : start + 64] for start in range(0, len(rows), 64)]
    drawn = draw_rows(blocks, 1000, seed=1)
    assert 400 < len(drawn) <= 1000
    assert (np.diff(drawn[:, 0]) > 0).all()
    # Of each tenth of all rows as many as of another; four standard errors.
    counts = np.histogram(drawn, 10, (0, 9000))[0]
    assert np.abs(counts - len(drawn) / 10).max() < 4 * np.sqrt(len(drawn) / 10)
    np.testing.assert_array_equal(drawn, draw_rows(blocks, 1000, seed=1))
    np.testing.assert_array_equal(draw_rows(blocks, 9000), rows)


def test_the_seed_decides():
    features = groups(2)
    same = [prototypes(features, seed=3, count=7)[0] for _ in range(2)]
    np.testing.assert_array_equal(*same)


def test_few_features_make_few_prototypes_and_fewer_none():
    assert prototypes(groups()[:40])[0].shape == (16, 10)
    with pytest.raises(UserError, match="7 images are too few"):
        prototypes(groups()[:7])

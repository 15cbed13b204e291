"""What is refused before a training begins, for the student that is asked for."""

from contextlib import nullcontext

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.data.sources.source import LabelledImages
from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.stages.replica_shares import refuse_share_without_labels
from candle_tf.stages.training_requirements import (
    check_split_requirements,
    check_training_requirements,
)
from candle_tf.students.architectures.registry import STUDENTS


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"binary_steps": 2}, "--binary_steps=2"),
        ({"optimizer": "bop"}, "--optimizer=bop"),
        ({"optimizer": "adam_sgd", "binary_learning_rate": 0.01}, "--binary_learning_rate"),
        ({"binary_weight_decay": 1e-6}, "--binary_weight_decay"),
        ({"clip_latent_weights": False}, "--noclip_latent_weights"),
    ],
)
def test_options_of_binary_kernels_are_refused_for_a_network_without_any(settings, flag):
    config = Config(method="cross_entropy", image_size=32, width=0.125, **settings)
    check_training_requirements(config, replicas=1)
    with pytest.raises(UserError, match=f"{flag} contradicts --student=float_resnet18"):
        check_training_requirements(config.replace(student="float_resnet18"), replicas=1)


def without_bias(input_shape, classes, *, width=1.0, stem_stride=2):
    from tests.tiny_parts import tiny_student  # registers it: not while tests are collected

    whole = tiny_student(input_shape, classes, width=width, stem_stride=stem_stride)
    features = whole.output["features"]
    logits = tf.keras.layers.Dense(classes, use_bias=False, name="logits")(features)
    return tf.keras.Model(whole.input, {"features": features, "logits": logits})


def test_a_plugins_student_without_a_bias_to_correct_is_refused_before_any_work(monkeypatch):
    monkeypatch.setitem(STUDENTS._targets, "biasless", without_bias)
    config = Config(plugin="tests.tiny_parts", student="biasless", image_size=32)
    with pytest.raises(UserError, match=r"--student=biasless has a layer 'logits' without bias"):
        check_training_requirements(config, replicas=1)
    for fine in ({"prior_correction": "0"}, {"method": "focal"}, {"student": "tiny_student"}):
        check_training_requirements(config.replace(**fine), replicas=1)


@pytest.mark.parametrize(
    ("settings", "validation", "classes", "message"),
    [
        ({"label_weight": "adaptive"}, 0, 3, "--label_weight=adaptive is decided on validation"),
        ({"label_weight": "adaptive"}, 1, 3, ""),
        ({"prior_correction": "auto"}, 0, 3, "--prior_correction=auto is decided on validation"),
        ({"logit_loss": "standardized"}, 1, 2, "standardized is for more than two classes"),
        ({"logit_loss": "standardized"}, 1, 3, ""),
        ({"logit_loss": "dist"}, 1, 2, "dist is for more than two classes"),
        ({"logit_loss": "dist"}, 1, 3, ""),
        ({"logit_loss": "kl"}, 0, 2, ""),
    ],
)
def test_what_these_images_cannot_decide_is_refused(settings, validation, classes, message):
    expected = pytest.raises(UserError, match=message) if message else nullcontext()
    with expected:
        check_split_requirements(Config(**settings), split_of(3, validation, classes), replicas=1)


def split_of(images, validation, classes=3):
    """All of them of the first class."""
    train, held_out, test = (
        LabelledImages(tuple(f"{part}{i}" for i in range(count)), np.zeros(count, np.int32))
        for part, count in (("train", images), ("validation", validation), ("test", 1))
    )
    return Split(
        *("images", tuple("abc"[:classes]), "natural", 1.0, 0, train, held_out, test),
        train_counts=np.bincount(np.zeros(images + validation, int), minlength=classes),
        source_hash="",
    )


UNLABELLED = {"unlabelled_dir": "images", "unlabelled_fraction": 0.25, "batch_size": 8}


@pytest.mark.parametrize(
    ("settings", "replicas", "message"),
    [
        ({"batch_size": 7}, 2, "--batch_size=7 has 7 images in a step: they cannot be divided"),
        ({"batch_size": 7}, 1, ""),
        ({"batch_size": 8}, 2, ""),
        ({"calibration_batch_size": 9}, 2, "--calibration_batch_size=9 has 9 views"),
        ({"calibration_batch_size": 9, "method": "focal"}, 2, ""),
        (UNLABELLED, 2, ""),
        (UNLABELLED, 4, "--unlabelled_fraction=0.25 has 6 images in a step"),
        ({**UNLABELLED, "unlabelled_fraction": 0.5}, 4, ""),
    ],
)
def test_batches_that_replicas_cannot_share_are_refused(settings, replicas, message):
    config = Config(image_size=32, width=0.125, **settings)
    with pytest.raises(UserError, match=message) if message else nullcontext():
        check_training_requirements(config, replicas)


@pytest.mark.parametrize(
    ("images", "validation", "message"),
    [
        (9, 4, "8 images in a step: they cannot be divided among 3 replicas"),
        (7, 4, "has 7 images in a step, which are all that there are: they cannot"),
        (6, 2, "2 validation images for 3 replicas: .* a larger --validation_fraction"),
        (6, 3, ""),
        (6, 0, ""),
    ],
)
def test_a_split_that_replicas_cannot_share_is_refused(images, validation, message):
    config = Config(method="focal", batch_size=8)
    check_split_requirements(config, split_of(images, validation), replicas=1)
    with pytest.raises(UserError, match=message) if message else nullcontext():
        check_split_requirements(config, split_of(images, validation), replicas=3)


def test_too_few_images_without_labels_for_the_replicas_are_refused():
    config = Config(**{**UNLABELLED, "unlabelled_fraction": 0.5})
    refuse_share_without_labels(config, 3, replicas=1)
    refuse_share_without_labels(config, 5, replicas=4)
    with pytest.raises(UserError, match="has 3 images without labels in a step, which are all"):
        refuse_share_without_labels(config, 3, replicas=2)

"""What is refused before a training begins, for the student that is asked for."""

from contextlib import nullcontext

import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.data.sources.source import LabelledImages
from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.stages.training_requirements import (
    check_split_requirements,
    check_training_requirements,
)


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
    names = tuple("abc"[:classes])
    train, held_out, test = (
        LabelledImages(tuple(f"{part}{i}" for i in range(count)), np.zeros(count, np.int32))
        for part, count in (("train", 3), ("validation", validation), ("test", 1))
    )
    split = Split(
        *("images", names, "natural", 1.0, 0, train, held_out, test),
        train_counts=np.bincount(np.zeros(3 + validation, int), minlength=classes),
        source_hash="",
    )
    expected = pytest.raises(UserError, match=message) if message else nullcontext()
    with expected:
        check_split_requirements(Config(**settings), split)

"""What --epochs=0 stands for."""

import pytest

from candle_tf.config import Config
from candle_tf.methods.settings import TrainingSettings
from candle_tf.stages.train import with_epochs


@pytest.mark.parametrize(
    ("images", "pretrained", "epochs"),
    [(100_000, False, 100), (1280, False, 100), (1000, False, 128), (300, False, 427),
     (100_000, True, 25), (1280, True, 25), (300, True, 107), (1, True, 32_000)],
)  # fmt: skip
def test_epochs_of_0_are_at_least_100_and_128000_images_or_a_quarter(images, pretrained, epochs):
    assert TrainingSettings(epochs=0).epochs_for(images, pretrained) == epochs


def test_given_epochs_are_as_given():
    assert TrainingSettings(epochs=3).epochs_for(10, pretrained=True) == 3


@pytest.mark.parametrize(
    ("images", "settings", "in_epoch"),
    [
        # Of 100 images one batch of 64 is full.
        (100, {}, 64),
        (128, {}, 128),
        (127, {}, 64),
        (63, {}, 63),
        (300, {"batch_size": 100}, 300),
        # Half of each batch is without labels.
        (100, {"unlabelled_dir": "more"}, 3 * 64),
        (20, {"unlabelled_dir": "more"}, 20 + 32),
        (100, {"unlabelled_dir": "more", "unlabelled_fraction": 0.25}, 2 * 64),
    ],
)
def test_few_images_are_shown_128000_times_in_all(images, settings, in_epoch, caplog):
    config = Config(**settings)
    assert config.images_in_epoch(images) == in_epoch
    with caplog.at_level("INFO", logger="absl"):
        epochs = with_epochs(config, images).training.epochs
    assert (epochs - 1) * in_epoch < 128_000 <= epochs * in_epoch
    assert f", {epochs * in_epoch:,} images seen (--epochs=0: 100, or more where" in caplog.text
    quarter = with_epochs(config.replace(student_weights="pretrained"), images).training.epochs
    assert (quarter - 1) * in_epoch < 32_000 <= quarter * in_epoch

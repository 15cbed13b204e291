"""What --epochs=0 stands for."""

import pytest

from candle_tf.methods.settings import TrainingSettings


@pytest.mark.parametrize(
    ("images", "pretrained", "epochs"),
    [(100_000, False, 100), (1280, False, 100), (1000, False, 128), (300, False, 427),
     (100_000, True, 25), (1280, True, 25), (300, True, 107), (1, True, 32_000)],
)  # fmt: skip
def test_epochs_of_0_are_at_least_100_and_128000_images_or_a_quarter(images, pretrained, epochs):
    assert TrainingSettings(epochs=0).epochs_for(images, pretrained) == epochs


def test_given_epochs_are_as_given():
    assert TrainingSettings(epochs=3).epochs_for(10, pretrained=True) == 3

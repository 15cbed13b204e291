"""What is refused before a training begins, for the student that is asked for."""

import pytest

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.stages.training_requirements import check_training_requirements


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

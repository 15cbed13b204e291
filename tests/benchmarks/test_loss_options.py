"""The benchmark of CANDLE's optional losses: every option trains what it says, and is compared."""

import json

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.settings import BalanceSettings
from tools.bench import table_of
from tools.benchmarks.loss_options import (
    OPTIONS,
    LossOption,
    build_option_trainer,
    loss_option_ratios,
    teacher_batch,
)
from tools.benchmarks.workload import Workload

SMALL = Workload(width=0.125, image_size=32, batch_size=4, classes=3, steps=1, feature_size=16)


@pytest.mark.parametrize("name", ["label_weight", "tied_head", "together"])
def test_an_option_is_in_the_step(name):
    tf.keras.utils.set_random_seed(0)
    batch = teacher_batch(SMALL)
    trainer = build_option_trainer(SMALL, OPTIONS[name], batch)
    before = trainer.network.get_layer("logits").kernel.numpy()
    # The rate rises from 0 at the first step.
    for _ in range(2):
        logs = trainer.train_step(batch)
    assert ("label" in logs) == bool(OPTIONS[name].label_weight)
    assert ("map16" in logs) == bool(OPTIONS[name].map_weight)
    assert all(np.isfinite(float(value)) for value in logs.values())
    # A tied head is in the teacher's place of the classifier, which no optimizer moves.
    tied = OPTIONS[name].balance.get("student_head") == "tied"
    assert np.array_equal(before, trainer.network.get_layer("logits").kernel.numpy()) == tied


def test_all_settings_of_the_losses_are_compared():
    given = {key for option in OPTIONS.values() for key in option.balance}
    assert given == {"feature_loss", "logit_loss", "balance", "student_head"}
    for option in OPTIONS.values():
        settings = BalanceSettings(label_weight=str(option.label_weight), **option.balance)
        default = BalanceSettings(label_weight="0.0")
        assert settings != default or option.map_weight


def test_ratios_are_over_the_default_step():
    options = {"r2": LossOption({"feature_loss": "r2"})}
    figures = loss_option_ratios(SMALL, repeats=2, options=options)
    (figure,) = figures.values()
    quotients = np.divide(figure["seconds"]["r2"], figure["seconds"]["default"])
    np.testing.assert_allclose(figure["median"], np.median(quotients))
    told = 4 / np.median(figure["seconds"]["r2"])
    np.testing.assert_allclose(figure["images_per_s"]["r2"], told)
    json.dumps(figures)
    assert "option_r2" in table_of(figures)
    assert "at most 1.1" in table_of(figures)

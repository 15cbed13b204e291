"""The classes' shares of the labels that a student is shown, as the pipeline shows them."""

import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.data.samplers import class_probabilities
from candle_tf.distribute import ALONE
from candle_tf.run_folder import open_run_folder
from candle_tf.stages import train as training
from candle_tf.stages.label_shares import label_shares
from candle_tf.stages.prepare import prepare

EPOCHS = 8


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return str(tmp_path_factory.mktemp("cache"))


def _prepare(tmp_path, **settings):
    config = Config(**{
        "dataset": "digits", "profile": "step", "imbalance_factor": 15, "image_size": 8,
        "validation_fraction": 0.0, "batch_size": 64, "augmentation": "none", "epochs": EPOCHS,
        "teacher_mode": "online", "teacher_view": "same", "run_dir": str(tmp_path), **settings,
    })  # fmt: skip
    return config, prepare(config, open_run_folder(config))


def _count(config, data) -> np.ndarray:
    """Shares of all labels that the batches of each epoch have, by their ratios, [E, C]."""
    batches = training._batches(config, data, None, None, 0, ALONE, config.student.image_size)
    steps = len(data.train) // config.training.batch_size
    shares = np.zeros([EPOCHS, data.classes])
    for step, batch in enumerate(batches.as_numpy_iterator()):
        ratios = batch.get("ratios", np.ones(len(batch["labels"])))
        np.add.at(shares[step // steps], batch["labels"], ratios)
        if "partner_labels" in batch:
            np.add.at(shares[step // steps], batch["partner_labels"], 1 - ratios)
    return shares / shares.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    "settings",
    [
        {"mix": "mixup", "mix_alpha": 0.2, "sampler": "square_root"},
        {"mix": "cutmix", "mix_alpha": 0.3},
        {"mix": "mixup", "mix_views": "half", "unmixed_from": 0.5},
        # Of 4 views 2 are mixed, and of 7 views 3.
        {"mix": "cutmix", "mix_views": "half", "teacher_mode": "cached", "tail_views": 7},
        {"mix": "mixup", "sampler": "deferred_class_balanced"},
    ],
    ids=str,
)
def test_shares_are_those_of_the_labels_of_the_batches(tmp_path, cache, settings):
    config, data = _prepare(tmp_path, cache_dir=cache, **{"sampler": "class_balanced", **settings})
    found, counted = label_shares(config, data), _count(config, data)
    np.testing.assert_allclose(found.sum(axis=1), 1.0)
    assert found.shape == (EPOCHS, data.classes)
    rare = data.counts < data.counts.mean()
    for half in (slice(0, EPOCHS // 2), slice(EPOCHS // 2, EPOCHS)):
        ours, theirs = (each[half][:, rare].sum(axis=1).mean() for each in (found, counted))
        assert ours == pytest.approx(theirs, abs=0.03)


def test_with_every_image_once_an_epoch_mixing_changes_nothing(tmp_path, cache):
    config, data = _prepare(tmp_path, cache_dir=cache, sampler="instance")
    counts = np.bincount(data.train.labels, minlength=data.classes)
    expected = np.tile(class_probabilities("instance", counts), (EPOCHS, 1))
    for mix in ({}, {"mix": "cutmix"}, {"mix": "mixup", "mix_views": "half"}):
        np.testing.assert_array_equal(label_shares(config.replace(**mix), data), expected)

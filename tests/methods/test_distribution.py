"""Training under a tf.distribute strategy gives what one replica gives.

Two logical devices can only be asked for before TensorFlow starts, so `python -m` runs this module
in a process of its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.balance import TotalLoss
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.feature_losses import CosineLoss
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.registry import METHODS
from candle_tf.methods.trainer import Trainer
from candle_tf.methods.training_loop import fit
from tests.methods.test_distillation import distillation_trainer

COUNTS = np.array([50, 9, 2])
TRAINERS = ("supervised", "distillation")
STEPS = 4


def _network() -> tf.keras.Model:
    """No batch norm: its statistics are those of each replica's share of the batch."""
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input([6])
    features = tf.keras.layers.Dense(5, activation="tanh", name="features")(inputs)
    logits = tf.keras.layers.Dense(3, name="logits")(features)
    return tf.keras.Model(inputs, {"features": features, "logits": logits})


def _trainer(name: str) -> Trainer:
    if name == "supervised":
        network = _network()
        group = ParameterGroup(network.trainable_variables, adam(0.01))
        return SupervisedTrainer(network, METHODS["balanced_softmax"], COUNTS, [group])
    return distillation_trainer(
        _network(),
        adam(0.01),
        adam(0.02),
        feature_loss=CosineLoss(np.ones(4)),
        total_loss=TotalLoss(2.0, 1.0, 0.2),
    )


def _batches(first_epoch: int) -> tf.data.Dataset:
    rng = np.random.default_rng(1)
    examples = {
        "inputs": rng.normal(size=(8 * STEPS, 6)).astype(np.float32),
        "labels": rng.integers(0, 3, 8 * STEPS).astype(np.int32),
        "teacher_features": rng.gamma(2.0, size=(8 * STEPS, 4)).astype(np.float32),
        "teacher_logits": rng.normal(0, 3, size=(8 * STEPS, 3)).astype(np.float32),
    }
    dataset = tf.data.Dataset.from_tensor_slices(examples)
    return dataset.batch(8, drop_remainder=True).repeat(2).skip(first_epoch * STEPS)


def _train(name: str, strategy: tf.distribute.Strategy, folder: Path, epochs: int = 2) -> Trainer:
    with strategy.scope():
        trainer = _trainer(name)
    fit(trainer, _batches, steps=STEPS, epochs=epochs, folder=folder, validation=_batches(1))
    return trainer


def _worker(folder: Path) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    halves = [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()]
    tf.config.set_logical_device_configuration(cpu, halves)
    mirrored = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    for name in TRAINERS:
        for label, strategy in (("one", tf.distribute.get_strategy()), ("two", mirrored)):
            if (name, label) == ("distillation", "two"):
                # Also resumed from a checkpoint.
                _train(name, strategy, folder / name / label, epochs=1)
            trainer = _train(name, strategy, folder / name / label)
            weights = trainer.get_weights()
            np.savez(folder / name / f"{label}.npz", *weights)
            replicas = trainer.distribute_strategy.num_replicas_in_sync
            (folder / name / f"{label}.json").write_text(json.dumps(replicas))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distribution")
    subprocess.run(
        [sys.executable, "-m", "tests.methods.test_distribution", str(folder)],
        check=True,
        cwd=Path(__file__).parents[2],
        timeout=240,
    )
    return folder


@pytest.mark.parametrize("name", TRAINERS)
def test_two_replicas_give_what_one_gives(results, name):
    assert json.loads((results / name / "one.json").read_text()) == 1
    assert json.loads((results / name / "two.json").read_text()) == 2
    one, two = (np.load(results / name / f"{label}.npz") for label in ("one", "two"))
    assert one.files == two.files
    for key in one.files:
        np.testing.assert_allclose(two[key], one[key], atol=2e-6)
    start = _trainer(name).get_weights()
    assert max(np.abs(one[key] - old).max() for key, old in zip(one.files, start, strict=True)) > (
        0.01
    )


@pytest.mark.parametrize("name", TRAINERS)
@pytest.mark.parametrize("file", ["steps.csv", "history.csv"])
def test_two_replicas_log_what_one_logs(results, name, file):
    def rows(label):
        table = np.genfromtxt(results / name / label / file, delimiter=",", names=True)
        return {key: table[key] for key in table.dtype.names if key != "seconds"}

    one, two = rows("one"), rows("two")
    assert one.keys() == two.keys()
    assert len(one["epoch"]) == (2 * STEPS if file == "steps.csv" else 2)
    for key, expected in one.items():
        np.testing.assert_allclose(two[key], expected, rtol=1e-5, err_msg=key)


if __name__ == "__main__":
    _worker(Path(sys.argv[1]))

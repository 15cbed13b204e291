"""Training under a tf.distribute strategy gives what one replica gives.

Two logical devices can only be asked for before TensorFlow starts, so `python -m` runs this module
in a process of its own.
"""

import json
import sys
import zipfile
from pathlib import Path

import larq as lq
import numpy as np
import pytest
import tensorflow as tf

from candle_tf.distribute import ONE_PROCESS, BatchShare, Workers, open_workers
from candle_tf.methods.balance import TotalLoss
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.batch_norm_statistics import ReestimateBatchNorm
from candle_tf.methods.class_balance import ClassTotalLoss
from candle_tf.methods.feature_losses import CosineLoss
from candle_tf.methods.label_loss import LabelLoss
from candle_tf.methods.long_tail.ltkd import ltkd_divergence
from candle_tf.methods.losses import balanced_softmax
from candle_tf.methods.optimizers import adam
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.trainer import TOTAL_LOSS, Trainer
from candle_tf.methods.training_loop import fit
from candle_tf.students.layers.annealed_sign import BNextKernelSign
from candle_tf.students.layers.sync_batch_norm import synchronize_batch_norm
from tests.command import start
from tests.methods.test_distillation import distillation_trainer

COUNTS = np.array([50, 9, 2])
TRAINERS = ("supervised", "distillation", "batch_norm")
STEPS = 4


def _network() -> tf.keras.Model:
    """No batch norm: its statistics are those of each replica's share of the batch."""
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input([6])
    features = tf.keras.layers.Dense(5, activation="tanh", name="features")(inputs)
    logits = tf.keras.layers.Dense(3, name="logits")(features)
    return tf.keras.Model(inputs, {"features": features, "logits": logits})


def _network_with_batch_norm() -> tf.keras.Model:
    """Maps of 1 x 1, in whose variance the difference between n and n - 1 is large."""
    tf.keras.utils.set_random_seed(0)
    inputs = tf.keras.Input([6])
    maps = tf.keras.layers.Reshape([1, 1, 6])(inputs)
    # A bias has no gradient here but rounding, which Adam would make steps of.
    maps = tf.keras.layers.Conv2D(5, 1, use_bias=False)(maps)
    maps = tf.keras.layers.BatchNormalization(momentum=0.5)(maps)
    features = tf.keras.layers.Flatten(name="features")(maps)
    logits = tf.keras.layers.Dense(3, name="logits")(features)
    network = tf.keras.Model(inputs, {"features": features, "logits": logits})
    if tf.distribute.has_strategy():
        synchronize_batch_norm(network)
    return network


def _trainer(name: str) -> Trainer:
    if name == "batch_norm":
        network = _network_with_batch_norm()
        group = ParameterGroup(network.trainable_variables, adam(0.01))
        return SupervisedTrainer(network, balanced_softmax, COUNTS, [group])
    if name == "supervised":
        network = _network()
        group = ParameterGroup(network.trainable_variables, adam(0.01))
        return SupervisedTrainer(network, balanced_softmax, COUNTS, [group])
    return distillation_trainer(
        _network(),
        adam(0.01),
        adam(0.02),
        feature_loss=CosineLoss(np.ones(4)),
        total_loss=TotalLoss(2.0, 1.0, 0.2),
        label_loss=LabelLoss(lambda z, y, _: balanced_softmax(z, y, COUNTS), 0.3, steps=10),
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


def _state(trainer: Trainer) -> list[np.ndarray]:
    """All variables, and results of metrics: their sums over examples have a coarser rounding."""
    sums = {id(variable) for metric in trainer.metrics for variable in metric.variables}
    weights = [weight.numpy() for weight in trainer.weights if id(weight) not in sums]
    return weights + [np.asarray(metric.result()) for metric in trainer.metrics]


def _worker(folder: Path) -> None:
    cpu = tf.config.list_physical_devices("CPU")[0]
    halves = [tf.config.LogicalDeviceConfiguration(), tf.config.LogicalDeviceConfiguration()]
    tf.config.set_logical_device_configuration(cpu, halves)
    mirrored = open_workers("mirrored").strategy
    for name in TRAINERS:
        for label, strategy in (("one", tf.distribute.get_strategy()), ("two", mirrored)):
            if (name, label) == ("distillation", "two"):
                # Also resumed from a checkpoint.
                _train(name, strategy, folder / name / label, epochs=1)
            trainer = _train(name, strategy, folder / name / label)
            np.savez(folder / name / f"{label}.npz", *_state(trainer))
            replicas = trainer.distribute_strategy.num_replicas_in_sync
            (folder / name / f"{label}.json").write_text(json.dumps(replicas))
    for label, strategy in (("one", tf.distribute.get_strategy()), ("two", mirrored)):
        losses = _losses_of_the_batch(strategy)
        (folder / f"losses_{label}.json").write_text(json.dumps(losses))
    for label, workers in (("one", ONE_PROCESS), ("two", open_workers("mirrored"))):
        for synced in (False, True):
            np.savez(folder / f"statistics_{label}_{synced}.npz", *_statistics(workers, synced))
    _pretrain(folder)


def _statistics(workers: Workers, synced: bool) -> list[np.ndarray]:
    """Of batch norms behind a float and behind an annealed convolution, and its temperature."""
    tf.keras.utils.set_random_seed(0)
    quantizer = BNextKernelSign()
    with workers.scope():
        pixels = tf.keras.Input([4, 4, 3])
        x = tf.keras.layers.Conv2D(5, 3, name="stem")(pixels)
        x = tf.keras.layers.Activation("tanh")(tf.keras.layers.BatchNormalization()(x))
        x = lq.layers.QuantConv2D(6, 2, kernel_quantizer=quantizer, name="conv")(x)
        network = tf.keras.Model(pixels, tf.keras.layers.BatchNormalization()(x))
    if synced and workers.replicas > 1:
        synchronize_batch_norm(network)
    images = np.random.default_rng(3).normal(size=(3, 8, 4, 4, 3)).astype(np.float32)

    def batches(share: BatchShare) -> tf.data.Dataset:
        shares = [batch[places] for batch in images for places in share.slices(8)]
        return tf.data.Dataset.from_tensor_slices({"inputs": shares})

    callback = ReestimateBatchNorm(network, lambda _: workers.distribute(batches), {0}, [quantizer])
    with workers.scope():
        callback.on_epoch_begin(0)
        callback.on_epoch_end(0)
    return [weight.numpy() for weight in network.non_trainable_weights]


def _losses_of_the_batch(strategy: tf.distribute.Strategy) -> list[float]:
    """Of losses that weigh an example by its batch."""
    rng = np.random.default_rng(2)
    kl, fs = rng.gamma(2.0, size=(2, 8)).astype(np.float32)
    teacher, student = rng.normal(0, 3, size=(2, 8, 4)).astype(np.float32)
    labels = np.array([0, 0, 0, 0, 1, 2, 3, 3], np.int32)
    weighted = ClassTotalLoss(sizes=np.arange(4), weights=np.array([[1, 2, 3, 9]]))
    groups = [np.array([0, 1]), np.array([2, 3])]
    replicas = strategy.num_replicas_in_sync

    def share(values: np.ndarray) -> tf.distribute.DistributedValues:
        parts = [tf.constant(part) for part in np.split(values, replicas)]
        return strategy.experimental_distribute_values_from_function(
            lambda context: parts[context.replica_id_in_sync_group]
        )

    def losses(kl, fs, teacher, student, labels):
        sums = weighted.balance(lambda _, sizes: 0.3 * sizes, kl, fs, labels, 0)
        each = ltkd_divergence(teacher, student, groups, 2.0, 1.0, 0.0)
        return tf.stack([sums[TOTAL_LOSS], tf.reduce_mean(each)]) / replicas

    shares = [share(values) for values in (kl, fs, teacher, student, labels)]
    whole = strategy.reduce("SUM", strategy.run(tf.function(losses), shares), axis=None)
    return whole.numpy().tolist()


def _pretrain(folder: Path) -> None:
    """The same pretraining on one device, and on all."""
    from PIL import Image

    from candle_tf.stages.pretrain import pretrain
    from candle_tf.stages.pretrain_settings import Pretraining
    from tests import tiny_parts  # noqa: F401  (registers the two)

    rng = np.random.default_rng(0)
    with zipfile.ZipFile(folder / "images.zip", "w") as archive:
        for number in range(40):
            with archive.open(f"{number}.png", "w") as file:
                Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(file, "PNG")
    for strategy in ("one", "mirrored"):
        settings = {
            "data_dir": str(folder / "images.zip"), "run_dir": str(folder / strategy),
            "cache_dir": str(folder / "cache"), "student": "tiny_student",
            "teacher": "tiny_teacher", "stem_stride": 1, "image_size": 16, "teacher_size": 32,
            "views": 2, "epochs": 2, "batch_size": 16, "heldout_fraction": 0.2, "warmup_steps": 2,
            "kernels": "auto", "precision": "float32", "strategy": strategy,
        }  # fmt: skip
        pretrain(Pretraining(**settings))


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distribution")
    done = start("tests.methods.test_distribution", str(folder))
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.mark.parametrize("name", TRAINERS)
def test_two_replicas_give_what_one_gives(results, name):
    assert json.loads((results / name / "one.json").read_text()) == 1
    assert json.loads((results / name / "two.json").read_text()) == 2
    one, two = (np.load(results / name / f"{label}.npz") for label in ("one", "two"))
    assert one.files == two.files
    for key in one.files:
        np.testing.assert_allclose(two[key], one[key], atol=2e-6)
    start = _state(_trainer(name))
    pairs = zip(one.files, start, strict=True)
    # Scalars are steps that were counted and metrics; all others are weights.
    assert max(np.abs(one[key] - old).max() for key, old in pairs if old.ndim) > 0.01


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


def test_weights_of_examples_are_those_of_the_whole_batch(results):
    one, two = (
        json.loads((results / f"losses_{label}.json").read_text()) for label in ("one", "two")
    )
    np.testing.assert_allclose(two, one, rtol=1e-5)


def test_statistics_estimated_on_two_replicas_are_those_of_one(results):
    """Of each replica's share the second layer's inputs are normalized by that share, unsynced."""
    found = {
        (label, synced): list(np.load(results / f"statistics_{label}_{synced}.npz").values())
        for label in ("one", "two")
        for synced in (False, True)
    }
    for one, other in zip(found["one", True], found["two", True], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    for one, other in zip(found["one", False][:2], found["two", False][:2], strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-5)
    assert not np.allclose(found["two", False][-1], found["two", True][-1], rtol=1e-3)
    assert [value for values in found.values() for value in values if not value.ndim] == [1.0] * 4


def test_pretraining_on_two_replicas_is_that_on_one(results):
    """Also the best epoch's weights, which are written from variables of one device."""
    one, two = (
        np.genfromtxt(results / name / "student" / "history.csv", delimiter=",", names=True)
        for name in ("one", "mirrored")
    )
    for key in set(one.dtype.names) - {"seconds"}:
        np.testing.assert_allclose(two[key], one[key], rtol=1e-3, err_msg=key)
    cards = [
        json.loads((results / name / "student.json").read_text()) for name in ("one", "mirrored")
    ]
    assert cards[0]["bytes"] == cards[1]["bytes"]
    assert cards[0]["epoch"] == cards[1]["epoch"]


if __name__ == "__main__":
    _worker(Path(sys.argv[1]))

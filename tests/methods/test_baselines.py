import numpy as np
import pytest
import tensorflow as tf
from scipy.special import log_softmax

from candle_tf.methods import losses
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.parameter_groups import ParameterGroup
from tests.methods.test_distillation import binary_student, teacher_batch

COUNTS = np.array([90, 30, 10, 3, 1])


def supervised_trainer(network: tf.keras.Model, loss: str, optimizer) -> SupervisedTrainer:
    """Trains all of a network by one optimizer."""
    group = ParameterGroup(network.trainable_variables, optimizer)
    return SupervisedTrainer(network, getattr(losses, loss), COUNTS, [group])


@pytest.mark.parametrize(
    ("name", "shift"), [("cross_entropy", np.zeros(5)), ("balanced_softmax", np.log(COUNTS))]
)
def test_total_loss_is_the_mean_loss_of_the_batch(name, shift):
    batch = teacher_batch()
    trainer = supervised_trainer(binary_student(), name, tf.keras.optimizers.SGD(0.1))
    logits = trainer.network(batch["inputs"], training=True)["logits"].numpy().astype(np.float64)
    rows = np.arange(len(logits))
    expected = -log_softmax(logits + shift, axis=1)[rows, batch["labels"]].mean()
    losses = trainer.train_step({key: tf.constant(value) for key, value in batch.items()})
    assert set(losses) == {"objective"}
    assert float(losses["objective"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("name", "shift"), [("cross_entropy", np.zeros(5)), ("balanced_softmax", np.log(COUNTS))]
)
def test_total_loss_of_mixed_images_weighs_the_losses_of_both_labels(name, shift):
    batch = teacher_batch()
    size = len(batch["labels"])
    rng = np.random.default_rng(0)
    batch["partner_labels"] = rng.integers(0, 5, size).astype(np.int32)
    batch["ratios"] = rng.uniform(size=size).astype(np.float32)
    trainer = supervised_trainer(binary_student(), name, tf.keras.optimizers.SGD(0.1))
    logits = trainer.network(batch["inputs"], training=True)["logits"].numpy().astype(np.float64)
    soft = np.zeros((size, 5))
    np.add.at(soft, (np.arange(size), batch["labels"]), batch["ratios"])
    np.add.at(soft, (np.arange(size), batch["partner_labels"]), 1 - batch["ratios"])
    expected = -(soft * log_softmax(logits + shift, axis=1)).sum(axis=1).mean()
    losses = trainer.train_step({key: tf.constant(value) for key, value in batch.items()})
    assert float(losses["objective"]) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("name", ["cross_entropy", "balanced_softmax"])
def test_training_moves_every_weight_and_learns(name):
    batch = teacher_batch()
    student = binary_student()
    optimizer = tf.keras.optimizers.Adam(0.01, jit_compile=False)
    trainer = supervised_trainer(student, name, optimizer)
    before = [variable.numpy() for variable in student.trainable_variables]
    data = tf.data.Dataset.from_tensors(batch)
    history = trainer.fit(data.repeat(60), steps_per_epoch=1, epochs=60, verbose=0).history
    assert history["objective"][-1] < 0.5 * history["objective"][0]
    for old, variable in zip(before, student.trainable_variables, strict=True):
        assert np.abs(old - variable.numpy()).max() > 1e-4, variable.name


def test_latent_binary_weights_stay_inside_their_gradient():
    """The constraint of the binary kernels is applied by the trainer's own steps."""
    student = binary_student()
    trainer = supervised_trainer(student, "cross_entropy", tf.keras.optimizers.SGD(50.0))
    trainer.train_step({key: tf.constant(value) for key, value in teacher_batch().items()})
    kernel = student.get_layer("block01_spatial_conv").kernel.numpy()
    assert np.abs(kernel).max() == 1.0

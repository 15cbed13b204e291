"""The moving average of a training's weights against NumPy, and what checkpoints make of it."""

import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.optimizers import adam
from candle_tf.methods.training_loop import fit
from candle_tf.methods.weight_average import UseAverage
from candle_tf.metrics import SCORE
from candle_tf.students.layers.blocks import binary_layers
from tests.methods.test_distillation import binary_student, distillation_trainer, teacher_batch

DECAY, STEPS, EPOCHS = 0.7, 3, 4
VALIDATION = teacher_batch(200, seed=99)


def _minimizing(trainer) -> list[tf.Variable]:
    return list(trainer.parameter_groups[0].variables)


def _values(variables) -> list[np.ndarray]:
    return [variable.numpy() for variable in variables]


class _Record(tf.keras.callbacks.Callback):
    """The weights after each step."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = []

    def on_train_batch_end(self, batch, logs=None):  # noqa: ARG002
        self.steps.append(_values(_minimizing(self.model)))


def _fit(folder, decay: float = DECAY):
    trainer = distillation_trainer(binary_student(), adam(0.05), adam(0.05))
    if decay:
        trainer.average_weights(decay)
    batches = [teacher_batch(seed=number) for number in range(STEPS * EPOCHS)]
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    dataset = tf.data.Dataset.from_tensor_slices(stacked)
    record = _Record()
    checkpoints = fit(
        trainer, lambda first: dataset.skip(STEPS * first), steps=STEPS, epochs=EPOCHS,
        folder=folder, validation=tf.data.Dataset.from_tensors(VALIDATION), keep=[2],
        callbacks=[*([UseAverage()] if decay else []), record],
    )  # fmt: skip
    return SimpleNamespace(trainer=trainer, checkpoints=checkpoints, steps=record.steps)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A whole training; the trainer is as its last checkpoint."""
    return _fit(tmp_path_factory.mktemp("whole"))


def test_the_average_of_real_steps_is_the_weighted_mean_of_their_weights(run):
    """Over four epochs, with the random weights before the first step left out."""
    assert len(run.steps) == STEPS * EPOCHS
    # Factors that add up to 1, the last step's being the largest.
    factors = DECAY ** np.arange(STEPS * EPOCHS - 1, -1, -1.0)
    factors /= factors.sum()
    for place, variable in enumerate(_minimizing(run.trainer)):
        values = np.stack([of_step[place].astype(np.float64) for of_step in run.steps])
        wanted = np.tensordot(factors, values, axes=1)
        np.testing.assert_allclose(
            variable.numpy(), wanted, rtol=1e-4, atol=1e-5, err_msg=variable.name
        )
        trained = run.trainer.weight_average.values[place].numpy()
        np.testing.assert_array_equal(trained, run.steps[-1][place])
        assert not np.allclose(wanted, trained, rtol=1e-2, atol=1e-3), variable.name


def test_the_balancer_is_not_averaged_and_the_projector_is(run):
    averaged = {variable.ref() for variable in _minimizing(run.trainer)}
    assert not averaged & {v.ref() for v in run.trainer.balancer.trainable_variables}
    assert averaged >= {v.ref() for v in run.trainer.projector.trainable_variables}
    assert averaged >= {v.ref() for v in run.trainer.network.trainable_variables}
    assert len(run.trainer.weight_average.values) == len(averaged)


def test_averaging_does_not_change_what_is_trained(run, tmp_path):
    plain = _fit(tmp_path, decay=0.0)
    for of_step, other in zip(run.steps, plain.steps, strict=True):
        for one, value in zip(of_step, other, strict=True):
            np.testing.assert_array_equal(one, value)


def test_averages_are_validated_and_are_the_networks_in_a_checkpoint(run):
    trainer, checkpoints = run.trainer, run.checkpoints
    averages, trained = _values(_minimizing(trainer)), _values(trainer.weight_average.values)
    # Who reads the network alone, as --student_weights does, gets the averages.
    reader = tf.Module()
    reader.network = binary_student(seed=1)
    Checkpoints(checkpoints.folder, reader).read_network(EPOCHS)
    for one, other in zip(reader.network.weights, trainer.network.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())

    validation = tf.data.Dataset.from_tensors(VALIDATION)
    row = checkpoints.history[-1]
    measured = trainer.evaluate(validation, verbose=0, return_dict=True)
    assert measured["loss"] == pytest.approx(row["val_loss"], rel=1e-5)
    assert measured["mean_class_accuracy"] == pytest.approx(row[SCORE])
    trainer.exchange_average()
    other = trainer.evaluate(validation, verbose=0, return_dict=True)
    assert other["loss"] != pytest.approx(row["val_loss"], rel=1e-4)

    checkpoints.restore(EPOCHS)
    for found, wanted in (
        (_minimizing(trainer), averages),
        (trainer.weight_average.values, trained),
    ):
        for one, value in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(one.numpy(), value)


def test_a_resumed_training_is_the_one_that_was_not_interrupted(run, tmp_path):
    shutil.copytree(run.checkpoints.folder, tmp_path / "checkpoints")
    Checkpoints(tmp_path / "checkpoints", tf.Module()).rewind(2)
    resumed = _fit(tmp_path)
    assert len(resumed.steps) == STEPS * 2
    for one, other in zip(run.trainer.weights, resumed.trainer.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.name)


def test_binary_kernels_are_the_signs_of_averaged_latent_weights(run):
    places = {v.ref(): place for place, v in enumerate(_minimizing(run.trainer))}
    flips = []
    for layer in binary_layers(run.trainer.network):
        kernel = layer.kernel.numpy()
        quantized = layer.kernel_quantizer(tf.constant(kernel)).numpy()
        np.testing.assert_array_equal(np.sign(quantized), np.where(kernel >= 0, 1.0, -1.0))
        trained = run.trainer.weight_average.values[places[layer.kernel.ref()]].numpy()
        flips.append(np.mean((kernel >= 0) != (trained >= 0)))
    assert 0 < max(flips) < 0.3


def test_bop_has_nothing_to_average():
    with pytest.raises(UserError, match=r"--weight_average=0.99 contradicts --optimizer=bop"):
        Config(optimizer="bop", weight_average=0.99)
    with pytest.raises(UserError, match=r"--weight_average=1.0 is out of range"):
        Config(weight_average=1.0)

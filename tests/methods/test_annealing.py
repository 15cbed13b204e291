import numpy as np
import pytest
import tensorflow as tf

from candle_tf.methods.annealing import Annealing, find_annealed_quantizers
from candle_tf.methods.batch_norm_statistics import ReestimateBatchNorm
from candle_tf.methods.optimizers import adam
from candle_tf.methods.trained_checkpoints import TrainedCheckpoints
from candle_tf.methods.training_loop import fit
from candle_tf.metrics import SCORE
from candle_tf.students.layers.annealed_sign import find_inexact_layers
from tests.methods.test_baselines import supervised_trainer
from tests.methods.test_distillation import binary_student, teacher_batch
from tests.methods.test_training_phases import _annealed_student

STEPS = 2


class _Temperatures(tf.keras.callbacks.Callback):
    """The temperature in which each epoch ends, and optionally a stop before one."""

    def __init__(self, quantizer, stop_at: int | None = None) -> None:
        super().__init__()
        self.quantizer = quantizer
        self.stop_at = stop_at
        self.seen = []

    def on_epoch_begin(self, epoch, logs=None):  # noqa: ARG002
        if epoch == self.stop_at:
            raise KeyboardInterrupt

    def on_epoch_end(self, epoch, logs=None):  # noqa: ARG002
        self.seen.append(float(self.quantizer.temperature.numpy()))


class _Run:
    """A training of an annealed student, and what it left."""

    def __init__(
        self, folder, epochs, fraction, stop_at=None, validation=None, reestimates=False
    ) -> None:
        tf.keras.utils.set_random_seed(0)
        self.student = _annealed_student()
        self.trainer = supervised_trainer(self.student, "cross_entropy", adam(0.01))
        self.quantizers = find_annealed_quantizers(self.student)
        self.folder = folder
        record = _Temperatures(self.quantizers[0], stop_at)
        annealing = Annealing(self.quantizers, epochs, fraction)
        annealed = range(annealing.annealed_epochs) if reestimates else ()
        views = [teacher_batch(100, seed=50)]
        statistics = ReestimateBatchNorm(self.student, lambda _: views, annealed, self.quantizers)
        try:
            self.checkpoints = fit(
                self.trainer,
                lambda first: _batches(epochs).skip(STEPS * first),
                steps=STEPS, epochs=epochs, folder=folder, validation=validation,
                callbacks=[annealing, statistics, record],
            )  # fmt: skip
        except KeyboardInterrupt:
            assert stop_at is not None
        self.temperatures = record.seen


def _batches(epochs: int) -> tf.data.Dataset:
    batches = [teacher_batch(seed=number) for number in range(STEPS * epochs)]
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return tf.data.Dataset.from_tensor_slices(stacked)


@pytest.mark.parametrize(
    ("epochs", "fraction", "soft"),
    [(5, 0.8, 4), (6, 0.5, 3), (3, 0.99, 2), (2, 0.0, 0), (1, 0.9, 0)],
)
def test_the_temperature_falls_to_signs_before_the_last_part(tmp_path, epochs, fraction, soft):
    run = _Run(tmp_path, epochs, fraction)
    expected = [0.01 ** (epoch / soft) for epoch in range(soft)] + [0.0] * (epochs - soft)
    np.testing.assert_allclose(run.temperatures, expected, rtol=1e-5, atol=0)
    assert soft < epochs
    assert find_inexact_layers(run.student) == []
    layer = run.student.get_layer("conv")
    quantized = layer.kernel_quantizer(layer.kernel.numpy())
    np.testing.assert_array_equal(quantized, np.where(layer.kernel.numpy() >= 0, 1.0, -1.0))


@pytest.mark.parametrize("stop_at", [2, 4])
def test_a_resumed_run_anneals_as_one_that_was_not_interrupted(tmp_path, stop_at):
    whole = _Run(tmp_path / "whole", 5, 0.8)
    first = _Run(tmp_path / "run", 5, 0.8, stop_at=stop_at)
    second = _Run(tmp_path / "run", 5, 0.8)
    assert first.temperatures + second.temperatures == whole.temperatures
    assert len(second.temperatures) == 5 - stop_at
    for one, other in zip(second.student.weights, whole.student.weights, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-5, atol=1e-6)


def test_statistics_of_signs_change_no_step_and_resume_exactly(tmp_path):
    """Whatever was estimated for validation, training goes the same way."""
    validation = tf.data.Dataset.from_tensors(teacher_batch(200, seed=99))
    same = {"epochs": 5, "fraction": 0.8, "validation": validation}
    without = _Run(tmp_path / "without", **same)
    whole = _Run(tmp_path / "whole", **same, reestimates=True)
    _Run(tmp_path / "run", **same, reestimates=True, stop_at=2)
    resumed = _Run(tmp_path / "run", **same, reestimates=True)

    assert whole.temperatures == without.temperatures
    for one, other in zip(
        whole.student.trainable_weights, without.student.trainable_weights, strict=True
    ):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.name)
    for name in ("whole", "run"):
        steps = (tmp_path / name / "steps.csv").read_text()
        assert steps == (tmp_path / "without" / "steps.csv").read_text()
    for one, other in zip(whole.student.weights, resumed.student.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=one.name)
    losses = [[row["val_loss"] for row in run.checkpoints.history] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert losses[0] != [row["val_loss"] for row in without.checkpoints.history]


def test_epochs_are_selected_and_restored_with_exact_signs(tmp_path):
    validation = tf.data.Dataset.from_tensors(teacher_batch(200, seed=99))
    run = _Run(tmp_path, 5, 0.8, validation=validation)
    # Validation leaves the temperature of the training as it was.
    assert run.temperatures[1] == pytest.approx(0.01**0.25, rel=1e-5)
    history = run.checkpoints.history
    best = run.checkpoints.best_epoch
    for epoch in {best, 5}:
        exact = TrainedCheckpoints(run.checkpoints.folder, run.trainer, run.student)
        exact.restore(epoch)
        assert find_inexact_layers(run.student) == []
        found = run.trainer.evaluate(validation, verbose=0, return_dict=True)
        assert found["loss"] == pytest.approx(history[epoch - 1]["val_loss"], rel=1e-5)
        assert found["mean_class_accuracy"] == pytest.approx(history[epoch - 1][SCORE])


def test_validation_in_an_annealed_epoch_runs_with_exact_signs(tmp_path):
    validation = tf.data.Dataset.from_tensors(teacher_batch(200, seed=99))
    run = _Run(tmp_path, 5, 0.8, stop_at=1, validation=validation)
    (temperature,) = run.temperatures
    assert temperature == 1.0
    losses = {}
    for name in ("annealed", "exact"):
        if name == "exact":
            run.quantizers[0].set_exact_sign()
        losses[name] = run.trainer.evaluate(validation, verbose=0, return_dict=True)["loss"]
    row = (tmp_path / "history.csv").read_text().splitlines()
    written = dict(zip(row[0].split(","), row[1].split(","), strict=True))
    assert float(written["val_loss"]) == pytest.approx(losses["exact"], rel=1e-5)
    assert losses["annealed"] != pytest.approx(losses["exact"], rel=1e-3)


def test_other_students_have_nothing_to_anneal():
    assert find_annealed_quantizers(binary_student()) == []
    assert len(find_annealed_quantizers(_annealed_student())) == 1

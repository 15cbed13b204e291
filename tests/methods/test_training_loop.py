"""Long trainings: killed and resumed, logged, and stopped when they diverge.

A killed run needs a process of its own: `python -m` runs this module as one.
"""

import csv
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from tensorflow.core.util import event_pb2

from candle_tf.errors import UserError
from candle_tf.methods.baselines import SupervisedTrainer
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.optimizers import adam, cosine_schedule
from candle_tf.methods.training_loop import fit
from candle_tf.metrics import SCORE
from tests.command import start
from tests.methods.test_baselines import supervised_trainer
from tests.methods.test_distillation import (
    CLASSES,
    binary_student,
    distillation_trainer,
    teacher_batch,
)

STEPS = 4
EPOCHS = 3


def _rows(path: Path) -> list[dict[str, float]]:
    with path.open(newline="") as file:
        return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]


def _without_seconds(rows):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in rows]


# Part 1: a run killed in the middle of an epoch ends as one that never stopped.


def _batches(kill_at: tuple[int, int] | None, first_epoch: int) -> tf.data.Dataset:
    """Batches by (epoch, step); the process ends where the batch of `kill_at` is asked for."""
    spec = tf.data.Dataset.from_tensors(teacher_batch()).element_spec

    def generate() -> Iterator[dict[str, np.ndarray]]:
        for epoch in range(first_epoch, EPOCHS):
            for step in range(STEPS):
                if (epoch, step) == kill_at:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield teacher_batch(seed=STEPS * epoch + step)

    return tf.data.Dataset.from_generator(generate, output_signature=spec)


def _distill(folder: Path, kill_at: tuple[int, int] | None = None) -> None:
    """Trains in `folder`, and at the end leaves every variable in state.npz."""
    rate = cosine_schedule(0.02, STEPS * EPOCHS, 0.2)
    trainer = distillation_trainer(binary_student(), adam(rate), adam(0.01))
    validation = tf.data.Dataset.from_tensors(teacher_batch(64, seed=99))
    fit(
        trainer,
        lambda first_epoch: _batches(kill_at, first_epoch),
        steps=STEPS,
        epochs=EPOCHS,
        folder=folder,
        validation=validation,
    )
    state = trainer.weights + [
        variable for group in trainer.parameter_groups for variable in group.optimizer.variables
    ]
    np.savez(folder / "state.npz", *[variable.numpy() for variable in state])


def _worker(folder: Path, task: str) -> None:
    tf.config.experimental.enable_op_determinism()
    if task == "killed":
        _distill(folder / "whole")
        _distill(folder / "killed", kill_at=(1, 2))
    else:
        _distill(folder / "killed")


def _run(folder: Path, task: str) -> int:
    return start("tests.methods.test_training_loop", str(folder), task).returncode


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> Path:
    """Two runs of the same settings: "whole", and "killed" in its second epoch, then resumed."""
    folder = tmp_path_factory.mktemp("runs")
    assert _run(folder, "killed") == -signal.SIGKILL
    assert len(_rows(folder / "killed" / "steps.csv")) == STEPS
    assert not (folder / "killed" / "state.npz").exists()
    assert _run(folder, "resumed") == 0
    return folder


def test_a_killed_run_ends_with_the_same_weights_and_optimizers(runs):
    whole, killed = (np.load(runs / name / "state.npz") for name in ("whole", "killed"))
    assert whole.files == killed.files
    for name in whole.files:
        np.testing.assert_array_equal(killed[name], whole[name])


def test_a_killed_run_ends_with_the_same_logs(runs):
    whole, killed = (runs / name for name in ("whole", "killed"))
    assert (killed / "steps.csv").read_bytes() == (whole / "steps.csv").read_bytes()
    histories = [_without_seconds(_rows(run / "history.csv")) for run in (whole, killed)]
    assert histories[0] == histories[1]
    assert [row["epoch"] for row in histories[0]] == list(range(1, EPOCHS + 1))


def test_every_step_is_logged_with_its_losses(runs):
    rows = _rows(runs / "killed" / "steps.csv")
    expected = [(epoch, step) for epoch in range(1, EPOCHS + 1) for step in range(1, STEPS + 1)]
    assert [(row["epoch"], row["step"]) for row in rows] == expected
    for row in rows:
        lam = row["lambda"]
        entropy = -lam * np.log(lam) - (1 - lam) * np.log(1 - lam)
        total_loss = lam * row["kl"] / 6.0 + (1 - lam) * row["fs"] / 0.9 + 0.2 * entropy
        assert row["objective"] == pytest.approx(total_loss, rel=1e-5)
    assert len({row["kl"] for row in rows}) == len(rows)


def test_history_holds_the_means_of_the_steps(runs):
    steps, history = (_rows(runs / "killed" / name) for name in ("steps.csv", "history.csv"))
    for row in history:
        assert {SCORE, "val_loss"} <= set(row)
        for name in ("objective", "kl", "fs", "lambda"):
            values = [step[name] for step in steps if step["epoch"] == row["epoch"]]
            assert row[name] == pytest.approx(np.mean(values), rel=1e-9)


def _scalars(folder: Path, tag: str) -> dict[int, float]:
    found = {}
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for record in tf.data.TFRecordDataset(str(path)).as_numpy_iterator():
            event = event_pb2.Event.FromString(record)
            for value in event.summary.value:
                if value.tag == tag:
                    found[event.step] = float(tf.make_ndarray(value.tensor))
    return found


def test_tensorboard_shows_the_history(runs):
    history = _rows(runs / "killed" / "history.csv")
    folder = runs / "killed" / "tensorboard"
    for part, tag, column in (
        ("train", "epoch_objective", "objective"),
        ("train", "epoch_lambda", "lambda"),
        ("validation", "evaluation_mean_class_accuracy_vs_iterations", None),
        ("validation", "epoch_mean_class_accuracy", SCORE),
    ):
        found = _scalars(folder / part, tag)
        assert found, tag
        if column:
            expected = {int(row["epoch"]) - 1: row[column] for row in history}
            assert found == pytest.approx(expected, rel=1e-5)


# Part 2: in this process, a small network in float.


def _supervised_trainer(seed: int = 0, rate: float = 0.05) -> SupervisedTrainer:
    tf.keras.utils.set_random_seed(seed)
    pixels = tf.keras.Input((8, 8, 3))
    x = tf.keras.layers.Flatten()(tf.keras.layers.Rescaling(1 / 255)(pixels))
    x = tf.keras.layers.Dense(6, activation="tanh")(x)
    logits = tf.keras.layers.Dense(CLASSES)(x)
    network = tf.keras.Model(pixels, {"logits": logits})
    return supervised_trainer(network, "cross_entropy", adam(rate))


def _batches_from(first_epoch: int, spoiled: int | None = None) -> tf.data.Dataset:
    """Three batches an epoch; that number `spoiled` holds what no training survives."""
    batches = [teacher_batch(seed=number) for number in range(30)]
    if spoiled is not None:
        batches[spoiled]["inputs"][0, 0, 0, 0] = np.nan
    stacked = {name: np.stack([batch[name] for batch in batches]) for name in batches[0]}
    return tf.data.Dataset.from_tensor_slices(stacked).skip(3 * first_epoch)


def _fit(trainer, folder, epochs: int, batches=_batches_from, validation=None) -> Checkpoints:
    return fit(trainer, batches, steps=3, epochs=epochs, folder=folder, validation=validation)


def test_a_stage_resumes_where_it_was_interrupted(tmp_path):
    whole = _supervised_trainer()
    validation = tf.data.Dataset.from_tensors(teacher_batch(32, seed=99))
    expected = _fit(whole, tmp_path / "whole", 4, validation=validation)

    interrupted = _supervised_trainer()
    evaluate, epochs_seen = interrupted.evaluate, []

    def stop_in_third_epoch(*args, **kwargs):
        epochs_seen.append(None)
        if len(epochs_seen) == 3:
            raise KeyboardInterrupt
        return evaluate(*args, **kwargs)

    interrupted.evaluate = stop_in_third_epoch
    with pytest.raises(KeyboardInterrupt):
        _fit(interrupted, tmp_path / "run", 4, validation=validation)
    resumed = _supervised_trainer(seed=5)
    checkpoints = _fit(resumed, tmp_path / "run", 4, validation=validation)

    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)
    for one, other in zip(checkpoints.history, expected.history, strict=True):
        assert _without_seconds([one])[0] == pytest.approx(_without_seconds([other])[0], rel=1e-5)
    assert len(_rows(tmp_path / "run" / "steps.csv")) == 4 * 3


def test_a_finished_stage_is_left_as_it_is(tmp_path):
    first = _supervised_trainer()
    _fit(first, tmp_path, 2)
    files = ("steps.csv", "history.csv", "checkpoints/progress.json")
    before = [(tmp_path / name).read_bytes() for name in files]

    def refuse(first_epoch: int) -> tf.data.Dataset:
        raise AssertionError(f"asked for the batches of epoch {first_epoch}")

    again = _supervised_trainer(seed=5)
    checkpoints = _fit(again, tmp_path, 2, batches=refuse)
    assert checkpoints.epochs_done == 2
    for one, other in zip(again.get_weights(), first.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    assert [(tmp_path / name).read_bytes() for name in files] == before


def test_the_best_epoch_can_be_restored(tmp_path):
    trainer = _supervised_trainer(rate=0.5)
    validation = tf.data.Dataset.from_tensors(teacher_batch(64, seed=99))
    checkpoints = _fit(trainer, tmp_path, 5, validation=validation)
    scores = [row[SCORE] for row in checkpoints.history]
    assert scores[checkpoints.best_epoch - 1] == max(scores)
    for epoch in (checkpoints.best_epoch, 5):
        checkpoints.restore(epoch)
        found = trainer.evaluate(validation, verbose=0, return_dict=True)
        assert found["mean_class_accuracy"] == pytest.approx(scores[epoch - 1], abs=1e-6)


def test_without_validation_there_is_no_score_and_the_last_is_best(tmp_path):
    checkpoints = _fit(_supervised_trainer(), tmp_path, 2)
    assert set(checkpoints.history[0]) == {"epoch", "objective", "seconds"}
    assert checkpoints.best_epoch == 2


def test_a_total_loss_that_is_no_number_stops_the_run(tmp_path):
    # Batch number 4, counted from 0, is the second step of the second epoch.
    spoiled = _supervised_trainer()
    with pytest.raises(UserError, match=r"objective is nan at step 2 of epoch 2"):
        _fit(spoiled, tmp_path, 3, batches=lambda first: _batches_from(first, spoiled=4))
    assert [row["epoch"] for row in _rows(tmp_path / "history.csv")] == [1]
    assert len(_rows(tmp_path / "steps.csv")) == 3

    trainer = _supervised_trainer(seed=5)
    Checkpoints(tmp_path / "checkpoints", trainer).restore(1)
    one_epoch = _supervised_trainer()
    _fit(one_epoch, tmp_path / "other", 1)
    for one, other in zip(trainer.get_weights(), one_epoch.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("epochs", [2, 3])
def test_weights_that_are_no_numbers_are_not_saved(tmp_path, epochs):
    """The last step of an epoch can ruin the weights while its total loss is still a number."""
    trainer = _supervised_trainer()
    compute_losses = trainer.compute_losses

    @tf.custom_gradient
    def zero(weight):
        # From the sixth step on, the second epoch's last, there is no gradient to speak of.
        slope = tf.where(trainer.optimizer.iterations >= 5, np.nan, 0.0)
        return tf.zeros([]), lambda upstream: upstream * slope * tf.ones_like(weight)

    def with_a_wrong_gradient(batch, training):
        total_loss = compute_losses(batch, training)["objective"]
        kernel = tf.convert_to_tensor(trainer.network.trainable_variables[0])
        return {"objective": total_loss + zero(kernel)}

    trainer.compute_losses = with_a_wrong_gradient
    with pytest.raises(UserError, match="not finite after epoch 2"):
        _fit(trainer, tmp_path, epochs)
    assert [row["epoch"] for row in _rows(tmp_path / "history.csv")] == [1]
    resumed = _supervised_trainer(seed=5)
    assert _fit(resumed, tmp_path, 2).epochs_done == 2
    assert all(np.isfinite(weight).all() for weight in resumed.get_weights())


def test_steps_of_an_epoch_that_was_not_saved_are_written_over(tmp_path):
    _fit(_supervised_trainer(), tmp_path, 2)
    log = tmp_path / "steps.csv"
    log.write_text(log.read_text() + "3,1,9.0\n3,2,9.0\n3,3,9.0\n")
    _fit(_supervised_trainer(), tmp_path, 4)
    rows = _rows(log)
    assert [(row["epoch"], row["step"]) for row in rows] == [
        (epoch, step) for epoch in (1, 2, 3, 4) for step in (1, 2, 3)
    ]
    assert max(row["objective"] for row in rows) < 9.0


@pytest.mark.parametrize(
    "cut", [1, 2, 30, 60, -1], ids=["one byte", "two", "some", "more", "all but one"]
)
def test_steps_of_an_epoch_that_was_cut_off_are_written_over(tmp_path, cut):
    """As by a kill in the middle of a write, of which any part may be there."""
    _fit(_supervised_trainer(), tmp_path / "whole", 4)
    whole = (tmp_path / "whole" / "steps.csv").read_bytes()
    _fit(_supervised_trainer(), tmp_path / "run", 2)
    log = tmp_path / "run" / "steps.csv"
    begun = log.read_bytes()
    third = b"".join(whole.splitlines(keepends=True)[7:10])
    assert whole.startswith(begun + third)
    assert len(third) > 60
    log.write_bytes(begun + third[:cut])
    _fit(_supervised_trainer(), tmp_path / "run", 4)
    rows = _rows(log)
    assert [(row["epoch"], row["step"]) for row in rows] == [
        (epoch, step) for epoch in (1, 2, 3, 4) for step in (1, 2, 3)
    ]
    assert log.read_bytes()[: len(begun)] == begun
    resumed, other = (
        [row["objective"] for row in _rows(each)]
        for each in (log, tmp_path / "whole" / "steps.csv")
    )
    np.testing.assert_allclose(resumed, other, rtol=1e-5)


def test_a_log_that_another_version_began_keeps_its_columns(tmp_path):
    _fit(_supervised_trainer(), tmp_path, 1)
    log = tmp_path / "steps.csv"
    lines = log.read_text().splitlines()
    # It logged something else beside the total loss.
    renamed = [lines[0] + ",older", *(f"{line},7.0" for line in lines[1:])]
    log.write_text("\n".join(renamed) + "\n")
    _fit(_supervised_trainer(), tmp_path, 2)
    rows = _rows(log)
    assert log.read_text().splitlines()[:4] == renamed
    assert [row["older"] for row in rows[:3]] == [7.0] * 3
    assert all(np.isnan(row["older"]) and row["objective"] > 0 for row in rows[3:])


def test_a_history_that_another_version_began_keeps_its_columns(tmp_path):
    _fit(_supervised_trainer(), tmp_path, 1)
    record = tmp_path / "checkpoints" / "progress.json"
    progress = json.loads(record.read_text())
    # It logged something else beside the total loss, and had no checksum.
    (row,) = progress["history"]
    total = row.pop("objective")
    row["older"] = 7.0
    del progress["sha256"]
    record.write_text(json.dumps(progress))
    checkpoints = _fit(_supervised_trainer(), tmp_path, 3)
    rows = _rows(tmp_path / "history.csv")
    assert [list(each) for each in rows] == [list(row)] * 3
    assert [each["epoch"] for each in rows] == [1, 2, 3]
    assert rows[0]["older"] == 7.0
    assert np.isnan([each["older"] for each in rows[1:]]).all()
    assert 0 < checkpoints.history[2]["objective"] < total


def test_a_damaged_checkpoint_stops_the_run_before_it_trains(tmp_path):
    _fit(_supervised_trainer(), tmp_path, 1)
    (path,) = (tmp_path / "checkpoints").glob("epoch-0001.data-*")
    data = bytearray(path.read_bytes())
    data[-1] ^= 0x80
    path.write_bytes(data)
    with pytest.raises(UserError, match=path.name):
        _fit(_supervised_trainer(), tmp_path, 2)
    assert len(_rows(tmp_path / "history.csv")) == 1


if __name__ == "__main__":
    _worker(Path(sys.argv[1]), sys.argv[2])


def test_a_folder_deleted_during_training_is_told_at_the_next_epoch(tmp_path):
    folder = tmp_path / "run" / "student"

    def batches(first_epoch):
        yielded = iter(_batches_from(first_epoch))
        for number, batch in enumerate(yielded):
            if number == 4:  # in the second epoch of three steps each
                shutil.rmtree(tmp_path / "run")
            yield batch

    def dataset(first_epoch):
        signature = _batches_from(first_epoch).element_spec
        return tf.data.Dataset.from_generator(
            lambda: batches(first_epoch), output_signature=signature
        )

    with pytest.raises(UserError, match=r"was deleted or moved during training, so epoch [12]"):
        _fit(_supervised_trainer(), folder, 3, batches=dataset)
    assert not (folder / "checkpoints" / "progress.json").exists()

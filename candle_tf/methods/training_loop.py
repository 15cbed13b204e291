"""`fit` for long trainings: resume, history, step log, TensorBoard, NaN guard."""

import math
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow as tf
from absl import logging

from candle_tf.data.image_sizes import spans_of_sides
from candle_tf.distribute import ONE_PROCESS, SECONDS_SHARED, Workers
from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.methods.checkpoints import Checkpoints, Row
from candle_tf.methods.progress import ProgressLog
from candle_tf.methods.step_file import StepFile, csv_text
from candle_tf.methods.trainer import Trainer

Batches = Callable[[int], tf.data.Dataset]


def fit(
    trainer: Trainer,
    batches: Batches,
    *,
    steps: int,
    epochs: int,
    folder: Path,
    validation: tf.data.Dataset | None = None,
    validation_steps: int | None = None,
    callbacks: Sequence[tf.keras.callbacks.Callback] = (),
    keep: Collection[int] = (),
    unit: str = "images",
    sides: Sequence[int] = (),
    workers: Workers = ONE_PROCESS,
) -> Checkpoints:
    """Trains up to `epochs`; resumes after the last epoch saved in the same folder.

    Writes checkpoints/, history.csv (a line an epoch), steps.csv (a line a step: the total loss,
    its losses and lambda at that step) and tensorboard/ into `folder`.

    Args:
        trainer: what to train.
        batches: the training batches from a given epoch (counted from 0) to the end; with `sides`,
            of images of that epoch's side.
        steps: batches in an epoch.
        epochs: epochs in all.
        folder: of this stage.
        validation: batches of "inputs" and "labels" to evaluate after each epoch.
        validation_steps: batches in it, where several replicas share them.
        callbacks: of Keras, further ones; at the end of an epoch they run before it is saved.
        keep: epochs (from 1) whose checkpoints stay, besides the last and the best.
        unit: what a batch consists of, for the progress.
        sides: of the images in each epoch, in pixels, where it changes: batches are asked for again
            at each change, and the step is traced once for each side.
        workers: that train together. All read `folder`; the chief alone writes into it.

    Returns:
        The stage's checkpoints; the trainer is in its state at the end of the last epoch.

    Raises:
        UserError: where a checkpoint is damaged, more epochs are done than are asked for, or a
            loss or weight is no longer finite.
    """
    checkpoints = Checkpoints(folder / "checkpoints", trainer, keep)
    if workers.is_chief:
        checkpoints.remove_leftovers()
    done = checkpoints.epochs_done
    if done > epochs:
        raise UserError(
            f"{folder} has {done} epochs already, and {epochs} are asked for: give --epochs={done} "
            "or more, or another --run_dir."
        )
    if done:
        checkpoints.restore(done)
        logging.info("%s: resumes after epoch %d of %d", folder.name, done, epochs)
    # The chief replaces checkpoints only after all have read them.
    workers.wait_for_all()
    if done == epochs:
        return checkpoints
    with workers.written_folder(folder) as written:
        if not workers.is_chief:
            checkpoints = Checkpoints(written / "checkpoints", trainer)
        checkpoints.require_space()
        written.mkdir(parents=True, exist_ok=True)
        dataset = batches(done)
        progress = ProgressLog(
            folder.name,
            first_epoch=done,
            epochs=epochs,
            steps=steps,
            batch_size=workers.replicas * _batch_size(dataset),
            unit=unit,
            sides=sides,
        )
        before = [_StepLog(written / "steps.csv", steps), *([progress] if workers.is_chief else [])]
        same = {
            "steps_per_epoch": steps,
            "validation_data": validation,
            "validation_steps": validation_steps,
            "verbose": 0,
            "callbacks": [*before, *callbacks, *_callbacks_at_the_end(written, checkpoints)],
        }
        if sides:
            _fit_each_side(trainer, batches, sides, done, same)
        else:
            trainer.fit(dataset, initial_epoch=done, epochs=epochs, **same)
    return (
        checkpoints
        if workers.is_chief
        else _wait_for_checkpoints(folder / "checkpoints", trainer, epochs)
    )


def _callbacks_at_the_end(folder: Path, checkpoints: Checkpoints) -> list[Any]:
    """What sees an epoch last: it is saved as all other callbacks left it."""
    return [
        _EpochLog(folder / "history.csv", checkpoints),
        tf.keras.callbacks.TensorBoard(folder / "tensorboard", write_graph=False),
    ]


def _fit_each_side(
    trainer: Trainer, batches: Batches, sides: Sequence[int], done: int, same: dict[str, Any]
) -> None:
    """`fit` of Keras from epoch `done`, once for each run of epochs with one side of images."""
    # One for each side: traced for two, Keras's function is one for images of any size, which the
    # native operators do not compute.
    functions: dict[int, Any] = {}
    for first, end in spans_of_sides(sides, done):
        side = sides[first]
        trainer.train_function = functions.get(side)
        trainer.fit(batches(first), initial_epoch=first, epochs=end, **same)
        functions[side] = trainer.train_function


def _batch_size(dataset: Any) -> int:
    """Examples in a batch, or in one replica's share of it."""
    specs = tf.nest.flatten(dataset.element_spec, expand_composites=True)
    return specs[0].shape[0] or 1


def _wait_for_checkpoints(folder: Path, trainer: Trainer, epochs: int) -> Checkpoints:
    """Checkpoints that the chief wrote, when a shared file system shows all of them here."""
    for _ in range(SECONDS_SHARED):
        checkpoints = Checkpoints(folder, trainer)
        if checkpoints.epochs_done == epochs:
            break
        time.sleep(1)
    return checkpoints


class _StepLog(tf.keras.callbacks.Callback):
    """Writes a line for each step and means of each epoch; stops at values not finite."""

    def __init__(self, path: Path, steps: int) -> None:
        super().__init__()
        self._path = path
        self._file = StepFile(path, steps)
        self._epoch = 0
        self._rows: list[Mapping[str, float]] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._epoch = epoch
        self._rows = []

    def on_train_batch_end(self, batch: int, logs: Mapping[str, float]) -> None:
        values = {name: float(value) for name, value in logs.items()}
        wrong = [name for name, value in values.items() if not math.isfinite(value)]
        if wrong:
            place = f"at step {batch + 1} of epoch {self._epoch + 1}"
            raise _divergence_error(f"{wrong[0]} is {values[wrong[0]]} {place}")
        self._rows.append({"epoch": self._epoch + 1, "step": batch + 1, **values})

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Appends the epoch's steps, and leaves their means in `logs` for callbacks after this."""
        if not self._path.parent.is_dir():
            raise UserError(
                f"The folder {self._path.parent} was deleted or moved during training, so epoch "
                f"{epoch + 1} cannot be saved. Put it back, and run the same command again."
            )
        # No total loss of this epoch is computed after its last update, which would be saved.
        for weight in self.model.weights:
            # A queue counts and labels its keys.
            if weight.dtype.is_floating and not tf.reduce_all(tf.math.is_finite(weight)):
                raise _divergence_error(
                    f"the weight {weight.name} is not finite after epoch {epoch + 1}"
                )
        self._file.append(epoch, self._rows)
        names = [name for name in self._rows[0] if name not in ("epoch", "step")]
        for name in names:
            logs[name] = sum(row[name] for row in self._rows) / len(self._rows)


class _EpochLog(tf.keras.callbacks.Callback):
    """Saves the checkpoint and the history of each epoch."""

    def __init__(self, path: Path, checkpoints: Checkpoints) -> None:
        super().__init__()
        self._path = path
        self._checkpoints = checkpoints
        self._began = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:  # noqa: ARG002
        self._began = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Mapping[str, float]) -> None:
        seconds = round(time.monotonic() - self._began, 2)
        row: Row = {"epoch": epoch + 1, **{name: float(value) for name, value in logs.items()}}
        self._checkpoints.save({**row, "seconds": seconds})
        history = self._checkpoints.history
        # A run that an older version began keeps its columns; the checkpoints' record has all.
        text = csv_text(history, list(history[0]), header=True)
        write_atomically(self._path, text.encode())


def _divergence_error(what: str) -> UserError:
    return UserError(
        f"Training diverged: {what}. The checkpoint of the epoch before is untouched; try a lower "
        "learning rate in a new run folder."
    )

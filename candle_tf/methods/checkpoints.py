"""Checkpoints of one training stage: the last epoch, the best epoch, and the history so far.

The state of a stage is `progress.json` (history, SHA-256 of every checkpoint file) and the
TensorFlow checkpoints it names. `progress.json` is replaced only after a checkpoint is written, so
a run killed at any moment resumes after the last whole epoch.
"""

import hashlib
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.errors import UserError
from candle_tf.files import (
    read_json_object,
    require_free_space,
    sha256_of_file,
    write_atomically,
)
from candle_tf.methods.epoch_selection import Selection, select_epoch
from candle_tf.metrics import SCORE

Row = dict[str, Any]
# The last, the best, and the one that is being written.
_KEPT_AT_ONCE = 3
# Index and headers of a checkpoint, beside its variables.
_OVERHEAD = 2**20


class Checkpoints:
    """Saves and restores a trainer, epoch by epoch.

    Args:
        folder: where the files are kept.
        trainer: anything that `tf.train.Checkpoint` tracks, with all its variables built.
        keep: epochs (from 1) whose checkpoints stay, besides the last and the best.
    """

    def __init__(self, folder: Path, trainer: Any, keep: Collection[int] = ()) -> None:
        self.folder = folder
        self._keep = {str(epoch) for epoch in keep}
        self.history: list[Row] = []
        self._checkpoint = tf.train.Checkpoint(trainer=trainer)
        self._files: dict[str, dict[str, str]] = {}
        self._read_progress()

    def require_space(self) -> None:
        """Refuses to train where the disk has no room for the checkpoints.

        Raises:
            UserError: with the bytes that are needed and those that are free.
        """
        kept = sum(path.stat().st_size for path in self.folder.glob("epoch-*"))
        size = max(0, _KEPT_AT_ONCE * self._size - kept)
        require_free_space(self.folder, size, "Training with its checkpoints")

    @property
    def epochs_done(self) -> int:
        """Number of finished epochs."""
        return len(self.history)

    def has_epoch(self, epoch: int) -> bool:
        """Whether there is a checkpoint of an epoch, counted from 1."""
        return str(epoch) in self._files

    @property
    def best_epoch(self) -> int:
        """The epoch (from 1) of the highest validation mean class accuracy, the later of equals;
        the last one where there is no validation subset. Of epochs that have a checkpoint: after
        `rewind` not every earlier one has."""
        scores = {int(key): self.history[int(key) - 1].get(SCORE, 0.0) for key in self._files}
        return max(scores, key=lambda epoch: (scores[epoch], epoch))

    def save(self, row: Row) -> None:
        """Writes a checkpoint for the epoch that `row` records, and drops those not needed."""
        epoch = self.epochs_done + 1
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix = self.folder / f"epoch-{epoch:04d}"
        self._write(prefix)
        self.history.append(row)
        written = sorted(self.folder.glob(f"{prefix.name}.*"))
        self._files[str(epoch)] = {file.name: sha256_of_file(file) for file in written}
        self._drop_others({str(epoch), str(self.best_epoch)} | self._keep)

    def rewind(self, epoch: int) -> None:
        """Forgets what came after `epoch`, whose checkpoint must be there (`keep`).

        Raises:
            UserError: where it is not.
        """
        if not self.has_epoch(epoch):
            raise UserError(f"There is no checkpoint of epoch {epoch} in {self.folder}.")
        self.history = self.history[:epoch]
        self._drop_others({key for key in self._files if int(key) <= epoch})

    def _drop_others(self, keep: set[str]) -> None:
        dropped = {key: self._files.pop(key) for key in set(self._files) - keep}
        progress: dict[str, Any] = {"history": self.history, "files": self._files}
        progress["sha256"] = _digest(progress)
        write_atomically(self._progress_path, json.dumps(progress, indent=1).encode())
        for name in [name for files in dropped.values() for name in files]:
            (self.folder / name).unlink(missing_ok=True)

    def _write(self, prefix: Path) -> None:
        try:
            self._checkpoint.write(str(prefix))
        except (OSError, tf.errors.OpError) as error:
            self.remove_leftovers()
            free = shutil.disk_usage(self.folder).free
            raise UserError(
                f"The checkpoint {prefix} of about {self._size / 1e6:.1f} MB cannot be written "
                f"({free / 1e6:.1f} MB are free there): {_first_line(error)} Make room and run the "
                f"same command again: it resumes after epoch {self.epochs_done}."
            ) from error

    @property
    def _size(self) -> int:
        """Bytes of one checkpoint, about."""
        trainer = self._checkpoint.trainer
        groups = getattr(trainer, "parameter_groups", ())
        slots = [slot for group in groups for slot in _variables(group.optimizer)]
        held = [*trainer.variables, *slots]
        sizes = [variable.shape.num_elements() * variable.dtype.size for variable in held]
        return sum(sizes) + _OVERHEAD

    def remove_leftovers(self) -> None:
        """Removes what a process killed while it wrote, or dropped, a checkpoint has left.

        For the one that trains: to others, what is not recorded may be a checkpoint being written.
        """
        recorded = {name for files in self._files.values() for name in files}
        for path in self.folder.glob("epoch-*"):
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path.name not in recorded:
                path.unlink(missing_ok=True)

    def select(self, policy: str, validation_counts: np.ndarray | None = None) -> Selection:
        """The epoch that a policy selects.

        Args:
            policy: as --select_epoch names them.
            validation_counts: validation images of each class, int `[C]`; for "auto".

        Returns:
            The epoch, counted from 1, and why.

        Raises:
            ValueError: for another policy.
        """
        scores = [row.get(SCORE) for row in self.history]
        return select_epoch(policy, scores, self.best_epoch, validation_counts)

    def restore_selected(
        self, policy: str, validation_counts: np.ndarray | None = None
    ) -> Selection:
        """Restores the epoch that a policy selects.

        Args:
            policy, validation_counts: as of `select`.

        Returns:
            As `select`.

        Raises:
            ValueError: for another policy.
            UserError: as `restore`.
        """
        selected = self.select(policy, validation_counts)
        self.restore(selected.epoch)
        logging.info(
            "%s: epoch %d of %d is used: %s",
            *(self.folder.parent.name, selected.epoch, self.epochs_done, selected.reason),
        )
        return selected

    def restore(self, epoch: int) -> None:
        """Sets the trainer to its state at the end of `epoch`, which is the last or the best.

        Raises:
            UserError: where a file is missing, is not as it was written, or holds other variables
                than the trainer has; names it.
        """
        self._verify(epoch)
        prefix = self.folder / f"epoch-{epoch:04d}"
        status = self._checkpoint.read(str(prefix))
        try:
            status.assert_consumed()
        except AssertionError as error:
            raise UserError(
                f"The checkpoint {prefix} holds other variables than this training has: it was "
                "written with other settings or by another version of candle_tf. Continue with "
                f"the version that began the run, or delete {self.folder} to train this stage from "
                "its beginning."
            ) from error

    def read_network(self, epoch: int) -> None:
        """Puts back the weights of the trainer's network alone, whatever else was saved.

        Args:
            epoch: which is the last or the best.

        Raises:
            UserError: where a file is missing or damaged, or it is of another network.
        """
        self._verify(epoch)
        prefix = self.folder / f"epoch-{epoch:04d}"
        try:
            read = self._checkpoint.read(str(prefix))
            read.assert_existing_objects_matched().expect_partial()
        # What TensorFlow raises for a missing variable, and for one of another shape.
        except (AssertionError, ValueError) as error:
            raise UserError(
                f"The checkpoint {prefix} does not hold this network: {str(error).splitlines()[0]}"
            ) from error

    def _verify(self, epoch: int) -> None:
        for name, expected in self._files[str(epoch)].items():
            path = self.folder / name
            if not path.exists():
                raise UserError(f"The checkpoint file {path} is missing. {self._remedy}")
            if sha256_of_file(path) != expected:
                raise UserError(
                    f"The checkpoint file {path} is damaged: its SHA-256 is not the one that was "
                    f"written down. {self._remedy}"
                )

    @property
    def _progress_path(self) -> Path:
        return self.folder / "progress.json"

    @property
    def _remedy(self) -> str:
        return f"Restore it, or delete {self.folder} to train this stage from its beginning."

    def _read_progress(self) -> None:
        if not self._progress_path.exists():
            # epoch-0001 alone is what a run killed while writing its first checkpoint leaves.
            if any(path.stem != "epoch-0001" for path in self.folder.glob("epoch-*.index")):
                raise UserError(
                    f"There are checkpoints in {self.folder}, but {self._progress_path}, which "
                    f"records the finished epochs, is missing. {self._remedy}"
                )
            return
        progress = read_json_object(self._progress_path, self._remedy)
        # Records of before version 0.2 have no checksum.
        expected = progress.pop("sha256", None)
        try:
            if expected is not None and expected != _digest(progress):
                raise ValueError("its contents do not match its checksum")
            self.history, self._files = list(progress["history"]), dict(progress["files"])
            # The last and the best epoch are what is restored later.
            for epoch in (self.epochs_done, self.best_epoch) if self.history else ():
                self._files[str(epoch)].keys()
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"The checkpoint record {self._progress_path} is damaged ({error}). {self._remedy}"
            ) from error


def _digest(progress: dict[str, Any]) -> str:
    """SHA-256 of a record's contents, whatever its layout in the file."""
    return hashlib.sha256(json.dumps(progress, sort_keys=True).encode()).hexdigest()


def _variables(optimizer: Any) -> list[tf.Variable]:
    variables = getattr(optimizer, "variables", [])
    return list(variables() if callable(variables) else variables)


def _first_line(error: BaseException) -> str:
    text = (str(error).splitlines() or [type(error).__name__])[0][:200].rstrip(".")
    return f"{text}."

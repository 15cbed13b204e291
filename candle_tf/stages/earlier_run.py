"""A student that an earlier run trained, to begin from or to learn from.

run = EarlierRun(Path("runs/earlier"), "--student_weights=runs/earlier")
run.spec, run.class_names
network = run.load_network()                # the epoch that it selected
run.refuse_seen_images(split)               # what it was trained on is no test image here
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.data.splits.split import Split, load_split
from candle_tf.errors import UserError
from candle_tf.files import read_json_object
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.reporting.results import read_results
from candle_tf.stages.seen_images import list_learned_ids
from candle_tf.students.weights.spec import StudentSpec, parse_spec

# Of a network whose classifier is not used.
_ANY_CLASSES = 2


@dataclass(frozen=True)
class EarlierRun:
    """The folder of a run, or of a pretraining, with at least one epoch of its student.

    Attributes:
        path: the folder.
        given: how it was named, for messages, such as "--teacher=run:runs/earlier".
    """

    path: Path
    given: str

    @cached_property
    def spec(self) -> StudentSpec:
        """Its student.

        Raises:
            UserError: where the folder is no run's.
        """
        try:
            return parse_spec(*map(self._setting, ("student", "width", "stem_stride")))
        except ValueError as error:
            raise self._no_settings(error) from error

    @property
    def image_size(self) -> int:
        """Side of its student's input in pixels; raises as `spec`."""
        size = self._setting("image_size")
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise self._no_settings(ValueError(f"the image size is {size!r}"))
        return size

    @cached_property
    def split(self) -> Split | None:
        """What it was trained on; None for a pretraining."""
        path = self.path / "split.json"
        return load_split(path) if path.exists() else None

    @property
    def class_names(self) -> Sequence[str] | None:
        """Of its classifier; None for a pretraining."""
        return self.split.class_names if self.split else None

    def load_network(self, image_size: int = 0, epoch: int = 0, policy: str = "") -> tf.keras.Model:
        """Its student as it was trained; `trained_student` has it as it was measured.

        Args:
            image_size: side of the network's input in pixels; 0 for that of the run.
            epoch: the best or the last one, counted from 1; 0 for the one that `policy` selects.
            policy: as --select_epoch names them; "" for the epoch that the run's report is of, or
                where it has none of all its epochs, the one that the run would select. Of a
                pretraining the best.

        Raises:
            UserError: where no epoch is finished, the run was continued since that epoch was its
                best or last one, or a file is missing or damaged.
        """
        classes = _ANY_CLASSES if self.class_names is None else len(self.class_names)
        network = self.spec.build(image_size or self.image_size, classes)
        trainer = tf.Module()
        trainer.network = network
        checkpoints = Checkpoints(self.path / "student" / "checkpoints", trainer)
        if not checkpoints.epochs_done:
            raise UserError(f"{self.given}: no epoch of its student is finished yet.")
        epoch = epoch or self._selected_epoch(checkpoints, policy)
        if not checkpoints.has_epoch(epoch):
            raise UserError(
                f"{self.given} has no checkpoint of epoch {epoch}, which its report is of: the run "
                f"was continued after its report, and {checkpoints.epochs_done} epochs are done. "
                "Finish it by the same command: it writes the report again."
            )
        checkpoints.read_network(epoch)
        return network

    def refuse_seen_images(self, split: Split) -> None:
        """Refuses a run that was trained on what is a test image now; warns of validation images.

        Only of splits of the same images: the names of others mean nothing.

        Raises:
            UserError: with how many there are.
        """
        if self.split is None or self.split.source_hash != split.source_hash:
            return
        if seen := list_learned_ids(self.split).intersection(split.test.ids):
            raise UserError(
                f"{self.given} learned from {len(seen)} of the {len(split.test.ids)} test images of"
                f" this run, such as {min(seen)}. Give this run the same split, by the same --seed "
                f"(there {self.split.seed}) and the same settings of the data."
            )
        if seen := set(self.split.train.ids).intersection(split.validation.ids):
            logging.warning(
                "%s learned from %d of the %d validation images of this run: what is chosen by "
                "them favours it; --seed=%d has the same ones",
                *(self.given, len(seen), len(split.validation.ids), self.split.seed),
            )

    def _selected_epoch(self, checkpoints: Checkpoints, policy: str) -> int:
        """See `load_network`."""
        if self.split is None:
            return checkpoints.best_epoch
        report = self.path / "report.json"
        if not policy and report.is_file():
            results = read_results(report)
            # Of fewer where the run was continued: it may select another one now.
            if results.last_epoch == checkpoints.epochs_done:
                return results.selected_epoch
        counts = np.bincount(self.split.validation.labels, minlength=len(self.split.class_names))
        # What it is of runs that were begun before there was such a setting, too.
        policy = policy or self._setting("select_epoch", "auto")
        try:
            return checkpoints.select(policy, counts).epoch
        except ValueError as error:
            raise self._no_settings(error) from error

    def _setting(self, name: str, default: Any = None) -> Any:
        remedy = f"{self.given} is no folder of a run: give what --run_dir named."
        settings = read_json_object(self.path / "config.json", remedy)
        if name not in settings and default is None:
            raise self._no_settings(KeyError(name))
        return settings.get(name, default)

    def _no_settings(self, error: Exception) -> UserError:
        return UserError(
            f"{self.path / 'config.json'} holds no settings of a run ({type(error).__name__}: "
            f"{error}). {self.given} is no folder of a run: give what --run_dir named."
        )

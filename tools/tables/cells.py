"""One cell of a table: a training with its settings, and the record that it leaves.

record = collect_cell(cell, folder)        # JSON-ready, once the training has ended
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import read_json_object
from candle_tf.reporting.image_predictions import (
    TEST,
    VALIDATION,
    ImagePredictions,
    read_image_predictions,
)
from candle_tf.reporting.results import read_results

RUNS, SEED = "{runs}", "{seed}"
# What a table gives to each cell, and how to change it.
OF_EACH_CELL = {
    "seed": 'Change "seeds" in its file.',
    "run_dir": "Give --run_dir of tools.run_table.",
    "cache_dir": "It is cache/ in --run_dir of tools.run_table.",
}
# What every record of a finished cell has; "validation" only where a training has such images.
_FIELDS = frozenset(
    {
        *("values", "seed", "config", "split", "hours", "images_seen", "history", "figures"),
        *("labels", "correct", "shot_groups"),
    }
)


@dataclass(frozen=True)
class Cell:
    """A training.

    Attributes:
        values: by axis, the name of the value.
        seed: of everything random.
        flagfile: settings that all cells share.
        settings: this cell's own, by flag name. In texts, RUNS stands for the folder of the
            table's runs, and SEED for the seed.
    """

    values: dict[str, str]
    seed: int
    flagfile: str
    settings: dict[str, Any]

    @property
    def row(self) -> str:
        """The name without the seed: cells of one row are averaged."""
        return "-".join(self.values.values())

    @property
    def name(self) -> str:
        """The row and the seed."""
        return f"{self.row}-{self.seed}"

    @property
    def needed_cells(self) -> list[str]:
        """The names of cells whose runs this one reads: its teacher's, or that of a replay."""
        # Joined teachers have a "+" between them.
        names = [
            name.partition("+")[0]
            for value in self.settings.values()
            for name in str(value).split(f"{RUNS}/")[1:]
        ]
        return [name.replace(SEED, str(self.seed)) for name in names]

    def settings_in(self, folder: Path) -> dict[str, Any]:
        """The settings, where the table is run in a folder."""
        return {
            name: value.replace(RUNS, str(folder / "runs")).replace(SEED, str(self.seed))
            if isinstance(value, str)
            else value
            for name, value in self.settings.items()
        }

    def run_path(self, folder: Path) -> Path:
        """The run folder of the training."""
        return folder / "runs" / self.name

    def record_path(self, folder: Path) -> Path:
        """The record of the finished cell."""
        return folder / "cells" / f"{self.name}.json"


def collect_cell(cell: Cell, folder: Path) -> dict[str, Any]:
    """The record of a finished training.

    Returns:
        "values", "seed", "config", "split" (its hash), "test" (a hash of the test images' ids),
        "versions", "hours" and "images_seen" (of all phases and stages of the student),
        "images_in_epoch", "history" (of the last stage), "bytes", "figures" (by model: mean,
        groups, per_class), "labels" and "correct" (of the student, 0 or 1 for each test image),
        "validation" (the same of the validation images, and a hash of their ids; where there are
        any) and "shot_groups" (by group, the labels in it).

    Raises:
        UserError: where the run has not finished, or its files are damaged.
    """
    run = cell.run_path(folder)
    results = read_results(run / "report.json")
    remedy = "Start the table again to write it again."
    histories = {
        path.parents[1].name: read_json_object(path, remedy)["history"]
        for path in run.glob("student*/checkpoints/progress.json")
    }
    in_epoch = Config.from_json(run / "config.json").images_in_epoch(results.split["train"])
    epochs = [row for history in histories.values() for row in history]
    names = sorted(results.split["train_counts"])
    validation = {}
    if results.split["validation"]:
        seen = read_image_predictions(run / VALIDATION)
        validation = {"validation": {"images": _hash(seen.images), **_correct(seen, names)}}
    predictions = read_image_predictions(run / TEST)
    groups = results.split["groups"]
    return {
        "values": cell.values,
        "seed": cell.seed,
        "config": results.config,
        "split": results.split["hash"],
        "test": _hash(predictions.images),
        "versions": read_json_object(run / "manifest.json", remedy)["versions"],
        "hours": sum(row["seconds"] for row in epochs) / 3600,
        "images_seen": in_epoch * len(epochs),
        "images_in_epoch": in_epoch,
        "history": histories["student"],
        "bytes": results.bytes,
        "figures": {
            model: {"mean": each.mean, "groups": each.groups, "per_class": each.per_class}
            for model, each in results.metrics.items()
        },
        **_correct(predictions, names),
        **validation,
        "shot_groups": {
            group: np.searchsorted(names, members).tolist() for group, members in groups.items()
        },
    }


def require_fields(path: Path, record: Mapping[str, Any]) -> None:
    """Refuses a record, read of a file, that is none of a finished cell.

    Raises:
        UserError: with what it lacks.
    """
    if missing := sorted(_FIELDS - record.keys()):
        raise UserError(
            f"{path} is damaged: it lacks {', '.join(missing)}. Restore the file, or delete it to "
            "run the cell again."
        )


def _correct(predictions: ImagePredictions, names: list[str]) -> dict[str, list[int]]:
    """Labels, as places in `names`, and whether the student was right, 0 or 1."""
    return {
        "labels": np.searchsorted(names, predictions.classes).tolist(),
        "correct": predictions.correct("student").astype(int).tolist(),
    }


def setting_text(value: Any) -> str:
    """A setting's value as a flag's."""
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def settings_of_all_cells(given: Sequence[str]) -> dict[str, Any]:
    """Settings by flag name, of texts such as "epochs=3".

    Raises:
        UserError: for a text that is no pair, and for what a table gives to each cell itself.
    """
    pairs = [each.partition("=") for each in given]
    wrong = [name for name, equals, _ in pairs if not equals or not name]
    if wrong:
        raise UserError(f"--set={','.join(given)} is not a list of name=value: {wrong[0]!r}.")
    for name, _, value in pairs:
        if name in OF_EACH_CELL:
            raise UserError(
                f"--set={name}={value} would be lost: a table gives {name} to each of its cells. "
                f"{OF_EACH_CELL[name]}"
            )
    return {name: value for name, _, value in pairs}


def _hash(names: Iterable[str]) -> str:
    return hashlib.sha256("\0".join(names).encode(errors="surrogateescape")).hexdigest()

"""report.json: every figure of a run, and the table made of it.

report = read_results("runs/digits/report.json")
print(method_table(report.rows()))
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from candle_tf.errors import UserError
from candle_tf.files import read_json_object, write_atomically
from candle_tf.folder_kinds import describe_other_folder
from candle_tf.metrics import Metrics

# What each result is called in tables, in their order.
TITLES = {
    "teacher": "teacher (calibrated, float)",
    "teacher_int8": "teacher as int8 file",
    "student_last_epoch": "student in Keras, last epoch",
    "student": "student in Keras, selected epoch",
    "tflite": "student as LCE file",
    "tflite_float": "its float32 reference model",
}


@dataclass(frozen=True)
class Results:
    """Everything that was measured.

    Attributes:
        config: the run's settings by flag name.
        split: "hash", "profile", "imbalance_factor", "selection", "train", "validation", "test"
            (numbers of images), "train_counts" by class name, and "groups" (class names of each
            shot group).
        selected_epoch, last_epoch: counted from 1.
        metrics: by model; keys as in `TITLES`.
        bytes: sizes by model.
        export: operators of the LCE file, and the agreement of both exports with Keras.
        data: "scanned", "left_out", "duplicates", "shared" and "contradictory": the result of
            reading all images; empty in reports of older versions.
        refused: why a check refused the export, which is empty then; "" where none did.
        norms: norm of each class's classifier weights, by model; empty in reports of older
            versions.
        selection: why the selected epoch was selected; empty in reports of older versions.
        label_weight: share of the total loss that labels had beside a teacher; None without a
            teacher, and in reports of older versions.
        prior_correction: strength of the correction of the student's classifier, which
            --prior_correction=auto finds; None of methods without it, and in reports of older
            versions.
    """

    config: dict[str, Any]
    split: dict[str, Any]
    selected_epoch: int
    last_epoch: int
    metrics: dict[str, Metrics]
    bytes: dict[str, int]
    export: dict[str, Any]
    data: dict[str, Any] = field(default_factory=dict)
    refused: str = ""
    norms: dict[str, list[float]] = field(default_factory=dict)
    selection: str = ""
    label_weight: float | None = None
    prior_correction: float | None = None

    def rows(self) -> list[dict[str, Any]]:
        """Rows for `table.method_table`, in the order of `TITLES`."""
        return [self.row(name) for name in TITLES if name in self.metrics]

    def row(self, name: str) -> dict[str, Any]:
        """The row of one model, a key of `metrics`."""
        measured = accuracies(self.metrics[name])
        return {"model": TITLES[name], **measured, "bytes": self.bytes.get(name)}


def untested_classes(results: Results) -> tuple[str, ...]:
    """Names of the classes without test images; all models are measured on the same images."""
    return next((each.untested_classes for each in results.metrics.values()), ())


def accuracies(metrics: Metrics) -> dict[str, float]:
    """The columns of a table's row that are accuracies: mean and shot groups."""
    return {"mean": metrics.mean, **metrics.groups}


def write_results(results: Results, path: Path) -> None:
    """Writes report.json."""
    content = {
        **vars(results),
        "metrics": {name: value.to_json() for name, value in results.metrics.items()},
    }
    write_atomically(path, (json.dumps(content, indent=2) + "\n").encode())


def read_results(path: Path) -> Results:
    """Reads report.json back.

    Raises:
        UserError: where there is none, or it is damaged.
    """
    remedy = "Start the run again to write it again."
    if not path.parent.exists():
        raise UserError(f"{path.parent} does not exist: give the folder of a run.")
    if not path.exists():
        if told := describe_other_folder(path.parent):
            raise UserError(told)
        if not (path.parent / "config.json").is_file():
            raise UserError(
                f"{path.parent} is no folder of a run: there is neither {path.name} nor "
                "config.json in it. Give what --run_dir named."
            )
        raise UserError(
            f"There is no {path}: the run has not finished. Start it again to resume it."
        )
    content = read_json_object(path, remedy)
    try:
        metrics = {name: Metrics.from_json(value) for name, value in content["metrics"].items()}
        results = Results(**{**content, "metrics": metrics})
        _check_types(results)
        return results
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged ({error}). {remedy}") from error


def read_shot_groups(path: Path) -> dict[str, list[str]]:
    """Class names of each shot group, from a report of any version; empty where there is none.

    Raises:
        UserError: where the report is damaged.
    """
    if not path.is_file():
        return {}
    remedy = "Start the run again to write it again."
    split = read_json_object(path, remedy).get("split")
    groups = split.get("groups") if isinstance(split, dict) else None
    if not isinstance(groups, dict) or not all(
        isinstance(names, list) and all(isinstance(name, str) for name in names)
        for names in groups.values()
    ):
        raise UserError(f"{path} is damaged (split has no groups of classes). {remedy}")
    return groups


def _check_types(results: Results) -> None:
    """Refuses a report whose parts are of other kinds than were written.

    Raises:
        ValueError: names the part.
    """
    for name in ("config", "split", "bytes", "export", "data"):
        if not isinstance(getattr(results, name), dict):
            raise ValueError(f"{name} is no object")
    for name in ("selected_epoch", "last_epoch"):
        if not isinstance(getattr(results, name), int):
            raise ValueError(f"{name} is no whole number")
    for name in ("label_weight", "prior_correction"):
        if not isinstance(getattr(results, name), int | float | None):
            raise ValueError(f"{name} is no number")
    if not all(isinstance(size, int) for size in results.bytes.values()):
        raise ValueError("a size in bytes is no whole number")

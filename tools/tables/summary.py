"""The table of the cells that are there: Markdown, CSV and a plot, with paired differences.

print(write_summary(definition, folder))        # also table.md, table.csv and table.png
"""

import csv
import io
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from candle_tf.files import read_json_object, write_atomically
from candle_tf.metrics import SCORE
from candle_tf.reporting.plots.style import to_png
from candle_tf.reporting.table import SHOT_GROUPS, text_table
from tools.tables.against import lines_against
from tools.tables.cells import require_fields
from tools.tables.definition import TableDefinition
from tools.tables.differences import paired_differences
from tools.tables.plots import bars, curve

# What of a run is compared: the student in Keras, whose predictions are recorded.
MODEL = "student"
_Record = dict[str, Any]


def write_against(definition: TableDefinition, folder: Path, row: str) -> str:
    """Writes against-ROW.md, one row beside the others; returns it as text.

    Raises:
        UserError: as `against.lines_against`.
    """
    rows = _records(definition, folder)
    if not rows:
        return "No cell is finished."
    lines = lines_against(definition, rows, row, _average_of(definition))
    columns, left = list(lines[0]), definition.axes
    text = f"{row} minus each of the others:"
    written = f"{text}\n\n{text_table(lines, columns, left=left, markdown=True)}\n"
    write_atomically(folder / f"against-{row}.md", written.encode())
    return f"{text}\n\n{text_table(lines, columns, left=left)}"


def _average_of(definition: TableDefinition) -> Callable[[list[_Record]], dict[str, str]]:
    return _validation_average if definition.chooses else _average


def write_summary(definition: TableDefinition, folder: Path) -> str:
    """Writes the table of the finished cells; returns it as text."""
    rows = _records(definition, folder)
    if not rows:
        return "No cell is finished."
    average = _average_of(definition)
    averages = [
        average(records) | _cost_to_reach(records, definition.reach) for records in rows.values()
    ]
    columns = list(dict.fromkeys(column for row in averages for column in row))
    left = (*definition.axes, "difference")
    differences = paired_differences(definition, rows)
    shown = ["difference", *definition.axes, "seeds", "points", "95 %", *SHOT_GROUPS]
    parts = [
        f"# {definition.name}",
        definition.about,
        text_table(averages, columns, left=left, markdown=True),
    ]
    if differences:
        parts.append(text_table(differences, shown, left=left, markdown=True))
    missing = _missing_text(definition, folder)
    if missing:
        parts.append(missing)
    write_atomically(folder / "table.md", ("\n\n".join(parts) + "\n").encode())
    write_csv(folder / "table.csv", averages, columns)
    write_atomically(folder / "table.png", to_png(_plot(definition, rows)))
    told = [text_table(averages, columns, left=left)]
    if differences:
        told.append(text_table(differences, shown, left=left))
    if missing:
        told.append(missing)
    return "\n\n".join(told)


def _missing_text(definition: TableDefinition, folder: Path) -> str:
    """What the averages and differences are without; "" where all cells are finished."""
    seeds: dict[str, list[str]] = defaultdict(list)
    for cell in definition.cells:
        if not cell.record_path(folder).exists():
            seeds[cell.row].append(str(cell.seed))
    if not seeds:
        return ""
    rows = "; ".join(f"{row} ({', '.join(each)})" for row, each in seeds.items())
    number = sum(map(len, seeds.values()))
    return f"Not finished, {number} of {len(definition.cells)} cells (row and seeds): {rows}."


def write_csv(path: Path, rows: Sequence[Mapping[str, str]], columns: Sequence[str]) -> None:
    """Writes rows, by column; what a row does not have is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_atomically(path, text.getvalue().encode())


def _records(definition: TableDefinition, folder: Path) -> dict[str, list[_Record]]:
    rows: dict[str, list[_Record]] = defaultdict(list)
    for cell in definition.cells:
        path = cell.record_path(folder)
        if path.exists():
            record = read_json_object(path, "Delete it, and start the table again.")
            require_fields(path, record)
            # An axis may have been renamed since.
            rows[cell.row].append({**record, "values": cell.values})
    return dict(rows)


def _best_validation(record: _Record) -> float:
    """The highest mean class accuracy on the validation subset; nan where there was none."""
    return max((row[SCORE] for row in record["history"] if SCORE in row), default=float("nan"))


def validation_accuracy(record: _Record) -> float:
    """Mean class accuracy of the finished student on the validation subset.

    Some methods change its classifier after the training. Of a record without predictions, of an
    earlier version, it is the highest of the training: the same where the best epoch is selected.
    """
    if "validation" in record:
        return _mean_class_accuracy(record["validation"])
    return _best_validation(record)


def _mean_class_accuracy(subset: dict[str, Any], classes: Sequence[int] | None = None) -> float:
    """Of all classes, or of some; nan where they have no image."""
    labels, correct = np.array(subset["labels"]), np.array(subset["correct"])
    members = np.unique(labels)
    members = members if classes is None else np.intersect1d(members, classes)
    return float(np.mean([correct[labels == c].mean() for c in members] or [np.nan]))


def _validation_average(records: list[_Record]) -> dict[str, str]:
    row = {**records[0]["values"], "seeds": str(len(records))}
    row["validation %"] = _percent(np.array([validation_accuracy(record) for record in records]))
    if all("validation" in record for record in records):
        for group in SHOT_GROUPS:
            members = [(r["validation"], r["shot_groups"].get(group, ())) for r in records]
            values = np.array([_mean_class_accuracy(*each) for each in members])
            row[f"{group} %"] = "–" if np.isnan(values).any() else _percent(values)
    row["images seen"] = f"{np.mean([record['images_seen'] for record in records]):,.0f}"
    row["minutes"] = f"{60 * np.mean([record['hours'] for record in records]):.0f}"
    return row


def _cost_to_reach(records: list[_Record], accuracy: float) -> dict[str, str]:
    """What training took until the validation subset first had this mean class accuracy."""
    if not accuracy:
        return {}
    images, minutes = [], []
    for record in records:
        history = record["history"]
        scores = [row.get(SCORE, 0.0) for row in history]
        epoch = next((k for k, score in enumerate(scores, 1) if score >= accuracy), None)
        if epoch is not None:
            later = history[epoch:]
            images.append(record["images_seen"] - record["images_in_epoch"] * len(later))
            minutes.append(60 * record["hours"] - sum(row["seconds"] for row in later) / 60)
    reached = len(images) == len(records)
    percent = f"{100 * accuracy:g} %"
    return {
        "best validation %": _percent(np.array([_best_validation(each) for each in records])),
        f"images to {percent}": f"{np.mean(images):,.0f}" if reached else "not reached",
        f"minutes to {percent}": f"{np.mean(minutes):.1f}" if reached else "not reached",
    }


def _average(records: list[_Record]) -> dict[str, str]:
    figures = [record["figures"][MODEL] for record in records]
    means = np.array([each["mean"] for each in figures])
    row = dict(records[0]["values"])
    row["seeds"] = str(len(records))
    row["mean %"] = _percent(means)
    for group in SHOT_GROUPS:
        values = [each["groups"][group] for each in figures if group in each["groups"]]
        # Class sizes, and so groups, may differ from seed to seed.
        fewer = f" ({len(values)} of {len(figures)} seeds)" if len(values) < len(figures) else ""
        row[f"{group} %"] = f"{_percent(np.array(values))}{fewer}" if values else "–"
    row["teacher %"] = "–"
    if all("teacher" in record["figures"] for record in records):
        row["teacher %"] = _percent(np.array([r["figures"]["teacher"]["mean"] for r in records]))
    row["images seen"] = f"{np.mean([record['images_seen'] for record in records]):,.0f}"
    row["minutes"] = f"{60 * np.mean([record['hours'] for record in records]):.0f}"
    return row


def _percent(values: np.ndarray) -> str:
    """The mean and, of several seeds, their standard deviation."""
    mean = f"{100 * values.mean():.1f}"
    return f"{mean} ± {100 * values.std(ddof=1):.1f}" if len(values) > 1 else mean


def _plot(definition: TableDefinition, rows: dict[str, list[_Record]]) -> Any:
    subset = "validation subset" if definition.chooses else "test set"
    values = {name: _accuracies(definition, records) for name, records in rows.items()}
    if not definition.curve:
        return bars(values, subset)
    lines: dict[str, list[tuple[float, list[float]]]] = defaultdict(list)
    for name, records in rows.items():
        others = [value for axis, value in records[0]["values"].items() if axis != definition.curve]
        images = float(np.mean([record["images_seen"] for record in records]))
        lines["-".join(others)].append((images, values[name]))
    return curve(lines, subset)


def _accuracies(definition: TableDefinition, records: list[_Record]) -> list[float]:
    """Of the seeds of a row, in per cent."""
    return [
        100 * (validation_accuracy(each) if definition.chooses else each["figures"][MODEL]["mean"])
        for each in records
    ]

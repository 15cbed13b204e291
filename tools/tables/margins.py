"""By how much CANDLE is better than the best other method, in several tables and on average.

    tables = [read_methods(definition, folder, records, settings, "scratch", ["candle"]), ...]
    margins = find_margins(tables)                  # the goals' figures, with 95 % intervals
    rows = method_rows(tables)                      # which cells are there, and which are missing

The best other method of a table is the one that is best on validation images, and so is that of
several rows of CANDLE: chosen on the test images, it would be the luckiest one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.metrics import SCORE
from candle_tf.reporting.bootstrap import (
    ComparedImages,
    Difference,
    average_difference,
    paired_difference,
)
from candle_tf.reporting.table import SHOT_GROUPS, text_table
from tools.tables.cells import Cell
from tools.tables.definition import TableDefinition
from tools.tables.differences import PairedImages, interval_text, paired_images
from tools.tables.records import cell_config_without_data, cells_by_name, find_record
from tools.tables.summary import validation_accuracy, write_csv

METHOD_AXIS = "method"
STARTS = ("scratch", "pretrained")
# What a method is to the one that is compared.
OF, CANDLE, DISTILLED, NOT_DISTILLED, OTHER_STUDENT = (
    "compared",
    "CANDLE with other settings",
    "distilled",
    "not distilled",
    "another student",
)
# Those that the best is chosen of, each for a goal of its own.
KINDS = (NOT_DISTILLED, DISTILLED)
_MARGIN_COLUMNS = (
    *("minus the best", "table", "of", "method", "chosen of", "seeds", "images"),
    *("points", "95 %"),
    *SHOT_GROUPS,
    "last epochs",
)
# By whether a table chooses settings.
_IMAGES = {False: "test", True: "validation"}
_CELL_COLUMNS = ("table", "method", "kind", "seeds", "missing", "validation %", "note")
_LEFT = ("minus the best", "table", "of", "method", "kind", "seeds", "images", "missing", "note")
_ABOUT = (
    "Points are of mean class accuracy, with 95 % intervals by a paired bootstrap over the images "
    "of each class; of the average, in each table, where tables with one test set have the same "
    "images in a resample. Tables that tell of validation images have an average of their own. The "
    "spread over seeds is not in the intervals. The best other method is the one with the highest "
    "accuracy on validation images relative to the compared method's, over the seeds that both "
    "have, of the methods that were run. Of several rows of CANDLE a table's is the one with the "
    "highest accuracy on validation images. Methods with another student, and CANDLE with other "
    "settings, are not chosen of. The average of a shot group is over the tables that have the "
    "group. Last epochs: the points where each training ends in its last epoch, whatever epoch its "
    "table selects, so that tables that select it by other rules can be compared."
)
_Record = dict[str, Any]


@dataclass(frozen=True)
class MethodCells:
    """A method of a table, from one start.

    Attributes:
        name: of the method in the table.
        kind: `OF`, one of `KINDS`, or why the method is not compared.
        records: of the finished cells, by seed.
        missing: by seed, why there is no record.
    """

    name: str
    kind: str
    records: dict[int, _Record]
    missing: dict[int, str]


@dataclass(frozen=True)
class TableMethods:
    """The methods of a table, from one start; the first is the one that is compared."""

    definition: TableDefinition
    methods: tuple[MethodCells, ...]


@dataclass(frozen=True)
class Margin:
    """The compared method minus the best other one of a kind, in a table.

    Attributes:
        table: its name.
        of: the compared method.
        kind: one of `KINDS`.
        best: the other method, chosen on validation images; "" where none can be compared.
        candidates: how many methods it was chosen of.
        methods: how many of the kind the table has.
        seeds: that both methods have.
        images: that both classified; None where there is no method to compare with.
        is_validation: whether these are the validation images, as the table chooses settings, and
            not the test set.
        last_epochs: the same difference, of mean class accuracies from 0 to 1, between the last
            epochs of both trainings; None where a record does not have them.
    """

    table: str
    of: str
    kind: str
    best: str
    candidates: int
    methods: int
    seeds: tuple[int, ...]
    images: PairedImages | None
    is_validation: bool = False
    last_epochs: float | None = None


def read_methods(
    definition: TableDefinition,
    folder: Path,
    records: Path | None,
    settings: Mapping[str, Any],
    start: str,
    of: Sequence[str],
) -> TableMethods:
    """Reads the records of a table's cells of one start.

    Args:
        definition: the table's.
        folder: of its run; it need not exist.
        records: folder of its kept records; it need not exist; None for none.
        settings: of all cells, as for `records.cell_config`.
        start: "scratch" or "pretrained": whether the cells have --student_weights.
        of: the method that is compared, one of CANDLE; of several that the table has, the one
            with the highest accuracy on validation images.

    Raises:
        UserError: where the table has no such method from this start, the method is none of
            CANDLE, a method has more than one row, or a record is damaged.
    """
    cells = _cells_by_method(definition, settings, start)
    configs = {name: cell_config_without_data(each[0], settings) for name, each in cells.items()}
    rows = _rows_of_candle(definition, configs, start, of)
    by_name = cells_by_name(definition)
    read = {
        name: [(cell.seed, find_record(cell, by_name, folder, records, settings)) for cell in each]
        for name, each in cells.items()
    }
    best = _best_on_validation([_method_cells(name, OF, read[name]) for name in rows])
    others = (
        _method_cells(name, _kind(configs[name], configs[best.name]), found)
        for name, found in read.items()
        if name != best.name
    )
    return TableMethods(definition, (best, *others))


def _rows_of_candle(
    definition: TableDefinition, configs: Mapping[str, Config], start: str, of: Sequence[str]
) -> list[str]:
    """Those of the names that the table has."""
    there = [name for name in of if name in configs]
    if not there:
        raise UserError(
            f"--of={','.join(of)} is no method of {definition.name} with --start={start}, which "
            f"has {', '.join(configs) or 'no method'}."
        )
    for name in there:
        if not configs[name].training.is_candle:
            raise UserError(
                f"--of={name} is --method={configs[name].training.method} in {definition.name}, "
                "and none of CANDLE, which is what other methods are compared with."
            )
    return there


def _best_on_validation(methods: Sequence[MethodCells]) -> MethodCells:
    """The best of those that were run, on the seeds that all of them have, if there are such."""
    there = [method for method in methods if method.records] or list(methods)
    shared = set.intersection(*(set(method.records) for method in there))

    def accuracy(method: MethodCells) -> float:
        seeds = shared or set(method.records)
        values = [validation_accuracy(method.records[seed]) for seed in sorted(seeds)]
        # Without validation images none is better: the first one.
        return float(np.nan_to_num(np.mean(values), nan=-1.0)) if values else -1.0

    return max(there, key=accuracy)


def _cells_by_method(
    definition: TableDefinition, settings: Mapping[str, Any], start: str
) -> dict[str, list[Cell]]:
    if METHOD_AXIS not in definition.axes:
        raise UserError(f"{definition.name} has no axis {METHOD_AXIS!r}, so no methods to compare.")
    cells: dict[str, list[Cell]] = {}
    is_pretrained: dict[str, bool] = {}
    for cell in definition.cells:
        if cell.row not in is_pretrained:
            is_pretrained[cell.row] = bool(
                cell_config_without_data(cell, settings).student.student_weights
            )
        if is_pretrained[cell.row] == (start == "pretrained"):
            cells.setdefault(cell.values[METHOD_AXIS], []).append(cell)
    for name, each in cells.items():
        rows = sorted({cell.row for cell in each})
        if len(rows) > 1:
            raise UserError(
                f"{definition.name} has several rows of method {name} with --start={start}: "
                f"{', '.join(rows)}. Methods are compared in tables of one row each."
            )
    return cells


def _kind(config: Config, of: Config) -> str:
    if config.student != of.student:
        return OTHER_STUDENT
    if config.training.is_candle:
        return CANDLE
    return DISTILLED if config.training.distils else NOT_DISTILLED


def _method_cells(
    name: str, kind: str, found: Sequence[tuple[int, tuple[_Record | None, str]]]
) -> MethodCells:
    records = {seed: record for seed, (record, _) in found if record is not None}
    missing = {seed: why for seed, (record, why) in found if record is None}
    return MethodCells(name, kind, records, missing)


def find_margins(tables: Sequence[TableMethods]) -> list[Margin]:
    """A margin for each kind of other method and each table."""
    return [_margin(table, kind) for kind in KINDS for table in tables]


def _margin(table: TableMethods, kind: str) -> Margin:
    others = [method for method in table.methods if method.kind == kind]
    there = [method for method in others if not _obstacle(table, method)]
    name, of, chooses = table.definition.name, table.methods[0].name, table.definition.chooses
    if not there:
        return Margin(name, of, kind, "", 0, len(others), (), None, chooses)
    leads = [_validation_lead(_pairs(table, method)) for method in there]
    best = there[int(np.argmax(leads))]
    pairs = _pairs(table, best)
    seeds = tuple(record["seed"] for record, _ in pairs)
    images = paired_images(pairs, chooses)
    last = _last_epochs_lead(pairs, chooses)
    return Margin(name, of, kind, best.name, len(there), len(others), seeds, images, chooses, last)


def _last_epochs_lead(
    pairs: Sequence[tuple[_Record, _Record]], is_validation: bool
) -> float | None:
    leads = [_last_epoch(own, is_validation) - _last_epoch(other, is_validation)
             for own, other in pairs]  # fmt: skip
    return None if np.isnan(leads).any() else float(np.mean(leads))


def _last_epoch(record: _Record, is_validation: bool) -> float:
    """Mean class accuracy of the last epoch, 0 to 1; NaN where the record does not have it."""
    if is_validation:
        history = record["history"]
        return float(history[-1].get(SCORE, np.nan)) if history else np.nan
    return float(record["figures"].get("student_last_epoch", {}).get("mean", np.nan))


def _pairs(table: TableMethods, method: MethodCells) -> list[tuple[_Record, _Record]]:
    """Records of the compared method and another one, for each seed that both have."""
    own = table.methods[0].records
    seeds = sorted(own.keys() & method.records.keys())
    return [(own[seed], method.records[seed]) for seed in seeds]


def _validation_lead(pairs: Sequence[tuple[_Record, _Record]]) -> float:
    """Over the compared method, on the same seeds: so none is best for the seeds that it has."""
    return float(
        np.mean([validation_accuracy(other) - validation_accuracy(own) for own, other in pairs])
    )


def _obstacle(table: TableMethods, method: MethodCells) -> str:
    """Why a method cannot be compared; "" where it can."""
    pairs = _pairs(table, method)
    if not pairs:
        return "no seed in common with the compared method" if method.records else "not run"
    if any(own["split"] != other["split"] for own, other in pairs):
        return "not on the same split"
    if paired_images(pairs, table.definition.chooses) is None:
        return "no predictions for the same images"
    return "no validation figures" if np.isnan(_validation_lead(pairs)) else ""


def margin_rows(margins: Sequence[Margin]) -> list[dict[str, str]]:
    """Lines of the margins and, after those of a kind, of their average; points are of 100.

    Tables that tell of validation images have an average of their own.
    """
    return [row for kind in KINDS for row in _rows_of_kind(kind, margins)]


def _rows_of_kind(kind: str, margins: Sequence[Margin]) -> Iterator[dict[str, str]]:
    chosen = [margin for margin in margins if margin.kind == kind]
    for margin in chosen:
        row = {
            "minus the best": kind,
            "table": margin.table,
            "of": margin.of,
            "chosen of": f"{margin.candidates} of {margin.methods}",
        }
        if margin.images is None:
            yield {**row, "method": "–", "points": "–", "95 %": "nothing to compare with"}
            continue
        yield {
            **row,
            "method": margin.best,
            "seeds": ", ".join(map(str, margin.seeds)),
            "images": _IMAGES[margin.is_validation],
            **_figures([margin.images]),
            **_last_epochs_text([margin]),
        }
    for is_validation in sorted({margin.is_validation for margin in chosen}):
        yield _average_row(kind, [each for each in chosen if each.is_validation == is_validation])


def _average_row(kind: str, margins: Sequence[Margin]) -> dict[str, str]:
    """The line of the average over the tables that have a margin; all of one kind of images."""
    there = [margin for margin in margins if margin.images is not None]
    row = {"minus the best": kind, "table": f"average of {len(there)} of {len(margins)} tables"}
    if not there:
        return row
    sets = [margin.images for margin in there if margin.images is not None]
    images = _IMAGES[margins[0].is_validation]
    return {**row, "images": images, **_figures(sets), **_last_epochs_text(there)}


def _last_epochs_text(margins: Sequence[Margin]) -> dict[str, str]:
    """The mean over tables, where each of them has it."""
    leads = [margin.last_epochs for margin in margins if margin.last_epochs is not None]
    return {"last epochs": f"{100 * np.mean(leads):+.1f}"} if len(leads) == len(margins) else {}


def _figures(sets: Sequence[PairedImages]) -> dict[str, str]:
    """Points and intervals of one table, or the average of several, in all and by shot group."""
    found = _difference(sets)
    row = {"points": f"{100 * found.mean:+.1f}", "95 %": interval_text(found)}
    for group in SHOT_GROUPS:
        parts = [part for part in (each.of_group(group) for each in sets) if part.labels.size]
        if parts:
            found = _difference(parts)
            fewer = f", {len(parts)} of {len(sets)} tables" if len(parts) < len(sets) else ""
            row[group] = f"{100 * found.mean:+.1f} ({interval_text(found)}){fewer}"
    return row


def _difference(sets: Sequence[PairedImages]) -> Difference:
    if len(sets) == 1:
        # To the last digit what the table's own summary tells.
        return paired_difference(sets[0].first, sets[0].second, sets[0].labels)
    return average_difference(
        [ComparedImages(each.first, each.second, each.labels, each.name) for each in sets]
    )


def method_rows(tables: Sequence[TableMethods]) -> list[dict[str, str]]:
    """A line for each method of each table: which of its cells are there, and which are missing."""
    best = {(margin.table, margin.best) for margin in find_margins(tables)}
    return [
        {
            "table": table.definition.name,
            "method": method.name,
            "kind": method.kind,
            "seeds": ", ".join(map(str, sorted(method.records))) or "none",
            "missing": _missing_text(method.missing),
            "validation %": _validation_text(method),
            "note": "the best of its kind"
            if (table.definition.name, method.name) in best
            else _obstacle(table, method)
            if method.kind in KINDS
            else "",
        }
        for table in tables
        for method in table.methods
    ]


def _missing_text(missing: Mapping[int, str]) -> str:
    by_reason: dict[str, list[str]] = {}
    for seed, why in sorted(missing.items()):
        by_reason.setdefault(why, []).append(str(seed))
    return "; ".join(f"{', '.join(seeds)} {why}" for why, seeds in by_reason.items())


def _validation_text(method: MethodCells) -> str:
    values = [validation_accuracy(record) for record in method.records.values()]
    return f"{100 * np.mean(values):.1f}" if values and not np.isnan(values).any() else "–"


def write_margins(tables: Sequence[TableMethods], start: str, path: Path) -> str:
    """Writes the margins as Markdown and CSV; returns them as text.

    Args:
        tables: of `read_methods`, at least one.
        start: of all of them.
        path: without its ending: path.md and path.csv.
    """
    of = " or ".join(dict.fromkeys(table.methods[0].name for table in tables))
    rows = margin_rows(find_margins(tables))
    told = ((rows, _MARGIN_COLUMNS), (method_rows(tables), _CELL_COLUMNS))
    start_text = "from scratch" if start == STARTS[0] else "from pretrained weights"
    title = f"{of} minus the best other method, {start_text}"
    markdown, plain = (
        [text_table(each, columns, left=_LEFT, markdown=marked) for each, columns in told]
        for marked in (True, False)
    )
    content = "\n\n".join([f"# {title}", _ABOUT, *markdown]) + "\n"
    write_atomically(path.with_name(f"{path.name}.md"), content.encode())
    write_csv(path.with_name(f"{path.name}.csv"), rows, _MARGIN_COLUMNS)
    return "\n\n".join([title, *plain, _ABOUT])

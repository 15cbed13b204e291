"""One row of a table beside all rows that differ from it in one axis: how much better it is.

The axis is one of those that the table compares, where it says which.

lines = lines_against(definition, records, "pretrained-candle")     # records: by row of the table
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from candle_tf.errors import UserError
from candle_tf.reporting.table import SHOT_GROUPS
from tools.tables.definition import TableDefinition
from tools.tables.differences import difference

_Record = dict[str, Any]
_NOTHING = "–"


def lines_against(
    definition: TableDefinition,
    rows: Mapping[str, list[_Record]],
    name: str,
    average: Callable[[list[_Record]], dict[str, str]],
) -> list[dict[str, str]]:
    """A line for the row, and one for each row beside it, the most accurate first.

    Args:
        definition: the table's.
        rows: records of the finished cells, by row.
        name: of the row.
        average: accuracies of a row's records, in percent, by column, as the table has them.

    Returns:
        Lines with the axes that differ, accuracies in all and by shot group, "minus it" (the row
        minus the line's, in points, with its 95 % interval) and the same by shot group. Columns
        that no line has are left out.

    Raises:
        UserError: for a row that is not there, or has none beside it.
    """
    if name not in rows:
        raise UserError(f"--against={name} is no finished row; one of {', '.join(rows)}.")
    lines, accuracy = [], "validation %" if definition.chooses else "mean %"
    compared = {each.axis for each in definition.comparisons} or set(definition.axes)
    for records in rows.values():
        axes = _different_axes(definition, rows[name], records)
        if len(axes) > 1 or not compared.issuperset(axes):
            continue
        found = average(records)
        line = {axis: found[axis] for axis in definition.axes}
        line |= {column: found.get(column, _NOTHING) for column in _accuracies(accuracy)}
        if axes:
            line |= _minus(difference(axes[0], rows[name], records, definition.chooses))
        lines.append(line)
    if len(lines) == 1:
        raise UserError(f"--against={name}: no other finished row differs from it in one axis.")
    lines.sort(key=lambda line: -float(line[accuracy].split()[0]))
    return _without_empty_columns(lines, definition.axes)


def _accuracies(accuracy: str) -> list[str]:
    return [accuracy, *(f"{group} %" for group in SHOT_GROUPS)]


def _different_axes(
    definition: TableDefinition, row: Sequence[_Record], other: Sequence[_Record]
) -> list[str]:
    first, second = row[0]["values"], other[0]["values"]
    return [axis for axis in definition.axes if first[axis] != second[axis]]


def _minus(found: dict[str, str]) -> dict[str, str]:
    line = {"minus it": f"{found['points']} ({found['95 %']})"}
    return line | {f"{group} minus it": found.get(group, _NOTHING) for group in SHOT_GROUPS}


def _without_empty_columns(
    lines: list[dict[str, str]], axes: Sequence[str]
) -> list[dict[str, str]]:
    """Without groups that no class is in, and axes whose value is the same in all lines."""
    columns = list(dict.fromkeys(column for line in lines for column in line))
    values = {column: {line.get(column, _NOTHING) for line in lines} for column in columns}
    kept = [
        column
        for column in columns
        if (len(values[column]) > 1 if column in axes else values[column] != {_NOTHING})
    ]
    return [{column: line.get(column, "") for column in kept} for line in lines]

"""How much better cells of a table are than others, image by image, with 95 % intervals.

rows = paired_differences(definition, records)      # records: of all seeds, by row of the table
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from candle_tf.reporting.bootstrap import Difference, paired_difference
from candle_tf.reporting.table import SHOT_GROUPS
from tools.tables.definition import TableDefinition

_Record = dict[str, Any]


def paired_differences(
    definition: TableDefinition, rows: Mapping[str, Sequence[_Record]]
) -> list[dict[str, str]]:
    """A line for each pair of rows that the definition compares.

    Args:
        definition: the table's.
        rows: records of the finished cells, by row.

    Returns:
        Lines with "difference", the axes that are the same, "seeds" (those that both rows have),
        "points", "95 %" and, by shot group, points and interval. The images are those of the test
        set; of a table that chooses settings, the validation images of all seeds together.
    """
    return list(_differences(definition, rows))


def _differences(
    definition: TableDefinition, rows: Mapping[str, Sequence[_Record]]
) -> Iterator[dict[str, str]]:
    for comparison in definition.comparisons:
        for records in rows.values():
            values = records[0]["values"]
            if values[comparison.axis] != comparison.of:
                continue
            for others in rows.values():
                other = others[0]["values"]
                changed = [axis for axis in definition.axes if values[axis] != other[axis]]
                if changed == [comparison.axis]:
                    yield _difference(comparison.axis, records, others, definition.chooses)


def _difference(
    axis: str, records: Sequence[_Record], others: Sequence[_Record], chooses: bool
) -> dict[str, str]:
    values, other = records[0]["values"], others[0]["values"]
    row = {name: value for name, value in values.items() if name != axis}
    row = {"difference": f"{values[axis]} - {other[axis]}", **row}
    by_seed = [{record["seed"]: record for record in each} for each in (records, others)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    row["seeds"] = str(len(seeds))
    pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in seeds]
    if not pairs or any(first["split"] != second["split"] for first, second in pairs):
        return {**row, "points": "–", "95 %": "not on the same split and seeds"}
    images = _on_validation_images(pairs) if chooses else _on_test_images(records, others, pairs)
    if images is None:
        return {**row, "points": "–", "95 %": "no predictions for the same images"}
    found = paired_difference(*images)
    row |= {"points": f"{100 * found.mean:+.1f}", "95 %": _interval(found)}
    groups = pairs[0][0].get("shot_groups", {})
    for group in SHOT_GROUPS:
        chosen = np.isin(images[2], groups.get(group, ()))
        if chosen.any():
            part = paired_difference(*(each[chosen] for each in images))
            row[group] = f"{100 * part.mean:+.1f} ({_interval(part)})"
    return row


_Images = tuple[np.ndarray, np.ndarray, np.ndarray]


def _on_test_images(
    records: Sequence[_Record],
    others: Sequence[_Record],
    pairs: Sequence[tuple[_Record, _Record]],
) -> _Images | None:
    """Means over seeds, as all have the same test images."""
    if len({record.get("test", record["split"]) for record in (*records, *others)}) > 1:
        return None
    first, second = (np.mean([pair[k]["correct"] for pair in pairs], axis=0) for k in (0, 1))
    return first, second, np.array(pairs[0][0]["labels"])


def _on_validation_images(pairs: Sequence[tuple[_Record, _Record]]) -> _Images | None:
    """One after the other, as each seed draws validation images of its own."""
    subsets = [tuple(record.get("validation", {}) for record in pair) for pair in pairs]
    if any(not first or not second for first, second in subsets):
        return None
    first, second, labels = (
        np.concatenate([pair[k][name] for pair in subsets])
        for k, name in ((0, "correct"), (1, "correct"), (0, "labels"))
    )
    return first, second, labels


def _interval(found: Difference) -> str:
    return f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"

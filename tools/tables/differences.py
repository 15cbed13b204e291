"""How much better cells of a table are than others, image by image, with 95 % intervals.

rows = paired_differences(definition, records)      # records: of all seeds, by row of the table
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
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
        set; of a table that chooses settings, the validation images. See `paired_images`.
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
                    yield difference(comparison.axis, records, others, definition.chooses)


def difference(
    axis: str, records: Sequence[_Record], others: Sequence[_Record], chooses: bool
) -> dict[str, str]:
    """A line of `paired_differences`: the first row minus the second.

    Args:
        axis: in which alone they differ.
        records: of the first row's seeds, at least one.
        others: of the second's.
        chooses: whether the images are the validation images.
    """
    values, other = records[0]["values"], others[0]["values"]
    row = {name: value for name, value in values.items() if name != axis}
    row = {"difference": f"{values[axis]} - {other[axis]}", **row}
    by_seed = [{record["seed"]: record for record in each} for each in (records, others)]
    seeds = sorted(by_seed[0].keys() & by_seed[1].keys())
    row["seeds"] = str(len(seeds))
    pairs = [(by_seed[0][seed], by_seed[1][seed]) for seed in seeds]
    if not pairs or any(first["split"] != second["split"] for first, second in pairs):
        return {**row, "points": "–", "95 %": "not on the same split and seeds"}
    images = paired_images(pairs, chooses)
    if images is None:
        return {**row, "points": "–", "95 %": "no predictions for the same images"}
    found = paired_difference(images.first, images.second, images.labels)
    row |= {"points": f"{100 * found.mean:+.1f}", "95 %": interval_text(found)}
    for group in SHOT_GROUPS:
        part = images.of_group(group)
        if part.labels.size:
            found = paired_difference(part.first, part.second, part.labels)
            row[group] = f"{100 * found.mean:+.1f} ({interval_text(found)})"
    return row


@dataclass(frozen=True)
class PairedImages:
    """Images that two rows of a table classified.

    Attributes:
        first, second: float `[N]`, 0 to 1: how many of the seeds of either row were right.
        labels: int `[N]`.
        groups: str `[N]`, the shot group of each image's class; "" for none.
        name: of the set of images; the same for the same images in the same order.
    """

    first: np.ndarray
    second: np.ndarray
    labels: np.ndarray
    groups: np.ndarray
    name: str

    def of_group(self, group: str) -> "PairedImages":
        """The images of a shot group, maybe none."""
        kept = self.groups == group
        return PairedImages(
            self.first[kept], self.second[kept], self.labels[kept], self.groups[kept], self.name
        )


def paired_images(
    pairs: Sequence[tuple[_Record, _Record]], validation: bool
) -> PairedImages | None:
    """What two rows of a table made of the same images.

    Where all seeds have the same images, each image is there once, with means over the seeds. Where
    each seed has images of its own, those of all seeds are there, one seed after the other; an
    image that two seeds share counts twice.

    Args:
        pairs: for each seed the records of both rows, on the same split; at least one.
        validation: whether the images are the validation images, not the test set's.

    Returns:
        The images; None where the records of a pair have predictions of none, or of different ones.
    """
    subsets = [tuple(_subset(record, validation) for record in pair) for pair in pairs]
    if any(not first or not second for first, second in subsets):
        return None
    names = [tuple(_images_of(record, validation) for record in pair) for pair in pairs]
    if any(first != second for first, second in names):
        return None
    groups = [
        _groups(record, subset["labels"])
        for (record, _), (subset, _) in zip(pairs, subsets, strict=True)
    ]
    first, second = ([np.array(pair[k]["correct"], float) for pair in subsets] for k in (0, 1))
    labels = [np.array(pair[0]["labels"]) for pair in subsets]
    if len(set(names)) == 1:
        return PairedImages(
            np.mean(first, axis=0), np.mean(second, axis=0), labels[0], groups[0], names[0][0]
        )
    return PairedImages(
        np.concatenate(first),
        np.concatenate(second),
        np.concatenate(labels),
        np.concatenate(groups),
        name=" ".join(name for name, _ in names),
    )


def _subset(record: _Record, validation: bool) -> _Record:
    """Labels and what was right, of the validation or the test images; {} where there are none."""
    return record.get("validation", {}) if validation else record


def _images_of(record: _Record, validation: bool) -> str:
    """What tells images from others: the hash of their ids; of older records, the split's."""
    if validation:
        return str(record["validation"].get("images", record["split"]))
    return str(record.get("test", record["split"]))


def _groups(record: _Record, labels: Sequence[int]) -> np.ndarray:
    """The shot group of each label: class sizes, and so groups, may differ from split to split."""
    group_of = {
        c: group for group, members in record.get("shot_groups", {}).items() for c in members
    }
    return np.array([group_of.get(label, "") for label in labels], dtype=object)


def interval_text(found: Difference) -> str:
    """In points, e.g. "-0.3 to +2.1"."""
    return f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"

"""Images that are in two parts of a split under different names.

A network is measured on what it has learned by heart then. Such images are reported, not removed:
published test sets stay as published.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from candle_tf.data.images.scan import Scan
from candle_tf.data.splits.split import PARTS, Split


@dataclass(frozen=True)
class Duplicate:
    """One image that stands in more than one part, byte by byte the same.

    Attributes:
        ids: its ids by part, of the parts it is in.
        classes: names of its classes, sorted; more than one where labels contradict.
    """

    ids: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]


def find_duplicates(scan: Scan, split: Split) -> list[Duplicate]:
    """Images with the same stored bytes (SHA-256) in different parts of a split.

    The same pixels in another file format or compression are not found, nor are images twice in
    one part.

    Args:
        scan: Of at least the images of the split, in the order train, validation, test.
        split: Without the images that cannot be read.

    Returns:
        In the order of their first ids.
    """
    rows = dict(zip(scan.ids, range(len(scan.ids)), strict=True))
    parts = split.parts
    where = [(name, i) for name, part in parts.items() for i in range(len(part.ids))]
    hashes = scan.hashes[[rows[parts[name].ids[i]] for name, i in where]]
    found = []
    for members in _same(hashes):
        ids: dict[str, list[str]] = {}
        classes = set()
        for name, i in (where[member] for member in members):
            ids.setdefault(name, []).append(parts[name].ids[i])
            classes.add(split.class_names[parts[name].labels[i]])
        if len(ids) > 1:
            by_part = {name: tuple(sorted(members)) for name, members in ids.items()}
            found.append(Duplicate(by_part, tuple(sorted(classes))))
    return sorted(found, key=lambda duplicate: tuple(duplicate.ids.values()))


def count_pairs(duplicates: list[Duplicate]) -> dict[str, int]:
    """How many images each two parts share, e.g. {"train and test": 3}; pairs that share any."""
    counts = {
        f"{a} and {b}": sum(a in duplicate.ids and b in duplicate.ids for duplicate in duplicates)
        for a, b in combinations(PARTS, 2)
    }
    return {pair: count for pair, count in counts.items() if count}


def _same(hashes: np.ndarray) -> Iterator[list[int]]:
    """Rows of uint8 (N, 32) that are alike, two or more together."""
    beginnings = np.ascontiguousarray(hashes[:, :8]).view(np.uint64).ravel()
    order = np.argsort(beginnings, kind="stable")
    alike = beginnings[order][1:] == beginnings[order][:-1]
    groups: dict[bytes, list[int]] = {}
    suspects = np.unique(np.concatenate([order[1:][alike], order[:-1][alike]]))
    for row in suspects.tolist():
        groups.setdefault(hashes[row].tobytes(), []).append(row)
    yield from (members for members in groups.values() if len(members) > 1)

"""Images that are in a split more than once, under different names: in two subsets, or two classes.

In two subsets they make test accuracy too high; in two classes of one subset, at most one label is
right. They are reported, not removed: published data sets stay as published.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations
from typing import NamedTuple

import numpy as np

from candle_tf.data.images.scan import Scan
from candle_tf.data.splits.split import SUBSETS, Split


@dataclass(frozen=True)
class Duplicate:
    """One image that is in more than one subset, with the same bytes.

    Attributes:
        ids: its ids, by subset.
        classes: names of its classes, sorted; more than one if its labels differ.
    """

    ids: dict[str, tuple[str, ...]]
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Contradiction:
    """One image that has several classes within a subset, with the same bytes.

    Attributes:
        subset: "train", "validation" or "test".
        ids: its ids, by class name, sorted.
    """

    subset: str
    ids: dict[str, tuple[str, ...]]


def find_duplicates(scan: Scan, split: Split) -> list[Duplicate]:
    """Finds images with the same stored bytes (SHA-256) in different subsets of a split.

    The same pixels in another file format or compression are not found, nor are repeats within one
    subset: of these see `find_contradictions`.

    Args:
        scan: Covers the images of the split, in the order train, validation, test.
        split: Without the images that cannot be read.

    Returns:
        Duplicates, sorted by their ids.
    """
    found = []
    for images in _equal_images(scan, split):
        ids: dict[str, list[str]] = {}
        for image in images:
            ids.setdefault(image.subset, []).append(image.image_id)
        if len(ids) > 1:
            by_subset = {name: tuple(sorted(members)) for name, members in ids.items()}
            classes = {image.class_name for image in images}
            found.append(Duplicate(by_subset, tuple(sorted(classes))))
    return sorted(found, key=lambda duplicate: tuple(duplicate.ids.values()))


def find_contradictions(scan: Scan, split: Split) -> list[Contradiction]:
    """Finds images with the same stored bytes (SHA-256) under several classes of one subset.

    Args:
        scan: Covers the images of the split.
        split: Without the images that cannot be read.

    Returns:
        Sorted by subset, in the order train, validation, test, and then by their ids.
    """
    found = []
    for images in _equal_images(scan, split):
        for subset in SUBSETS:
            ids: dict[str, list[str]] = {}
            for image in images:
                if image.subset == subset:
                    ids.setdefault(image.class_name, []).append(image.image_id)
            if len(ids) > 1:
                by_class = {name: tuple(sorted(ids[name])) for name in sorted(ids)}
                found.append(Contradiction(subset, by_class))
    return sorted(found, key=lambda each: (SUBSETS.index(each.subset), *each.ids.values()))


def count_pairs(duplicates: list[Duplicate]) -> dict[str, int]:
    """Counts the images that two subsets share, e.g. {"train and test": 3}, if there are any."""
    counts = {
        f"{a} and {b}": sum(a in duplicate.ids and b in duplicate.ids for duplicate in duplicates)
        for a, b in combinations(SUBSETS, 2)
    }
    return {pair: count for pair, count in counts.items() if count}


def shared_ids(scan: Scan, other: Scan) -> tuple[str, ...]:
    """Ids of a scan's images that another scan has too, with the same stored bytes."""
    known = {row.tobytes() for row in other.hashes[other.readable]}
    rows = zip(scan.ids, scan.readable, scan.hashes, strict=True)
    return tuple(image_id for image_id, ok, row in rows if ok and row.tobytes() in known)


class _Image(NamedTuple):
    """Where an image of a split is."""

    subset: str
    class_name: str
    image_id: str


def _equal_images(scan: Scan, split: Split) -> Iterator[list[_Image]]:
    """Groups of images of a split with the same stored bytes, each of two or more."""
    rows = dict(zip(scan.ids, range(len(scan.ids)), strict=True))
    subsets = split.subsets
    where = [(name, i) for name, subset in subsets.items() for i in range(len(subset.ids))]
    hashes = scan.hashes[[rows[subsets[name].ids[i]] for name, i in where]]
    for members in _group_equal_rows(hashes):
        places = [where[member] for member in members]
        yield [
            _Image(name, split.class_names[subsets[name].labels[i]], subsets[name].ids[i])
            for name, i in places
        ]


def _group_equal_rows(hashes: np.ndarray) -> Iterator[list[int]]:
    """Groups of equal rows of uint8 [N, 32], each of two or more rows."""
    first_bytes = np.ascontiguousarray(hashes[:, :8]).view(np.uint64).ravel()
    order = np.argsort(first_bytes, kind="stable")
    equal = first_bytes[order][1:] == first_bytes[order][:-1]
    groups: dict[bytes, list[int]] = {}
    suspects = np.unique(np.concatenate([order[1:][equal], order[:-1][equal]]))
    for row in suspects.tolist():
        groups.setdefault(hashes[row].tobytes(), []).append(row)
    yield from (members for members in groups.values() if len(members) > 1)

import hashlib

import numpy as np

from candle_tf.data.images.scan import Scan
from candle_tf.data.sources.registry import LabelledImages
from candle_tf.data.splits.duplicates import (
    Contradiction,
    Duplicate,
    count_pairs,
    find_contradictions,
    find_duplicates,
)
from candle_tf.data.splits.split import Split


def split_of(**subsets: dict[str, int]) -> Split:
    partitions = {
        name: LabelledImages(tuple(labels), np.array(list(labels.values()), np.int32))
        for name, labels in subsets.items()
    }
    counted = np.concatenate([partitions["train"].labels, partitions["validation"].labels])
    return Split("x", ("cat", "dog"), "natural", 1.0, 0, train_counts=np.bincount(counted),
                 source_hash="", **partitions)  # fmt: skip


def scan_of(contents: dict[str, str]) -> Scan:
    hashes = [np.frombuffer(hashlib.sha256(c.encode()).digest(), np.uint8)
              for c in contents.values()]  # fmt: skip
    return Scan(tuple(contents), np.ones(len(contents), bool), np.stack(hashes))


def test_duplicates_across_subsets_are_found_with_their_classes():
    split = split_of(
        train={"t1": 0, "t2": 1, "t3": 1, "t4": 0},
        validation={"v1": 0, "v2": 1},
        test={"e1": 1, "e2": 1, "e3": 0},
    )
    contents = {"t1": "A", "t2": "B", "t3": "C", "t4": "A", "v1": "D", "v2": "C",
                "e1": "A", "e2": "E", "e3": "C", "bad": "E"}  # fmt: skip
    found = find_duplicates(scan_of(contents), split)
    assert found == [
        Duplicate({"train": ("t1", "t4"), "test": ("e1",)}, ("cat", "dog")),
        Duplicate({"train": ("t3",), "validation": ("v2",), "test": ("e3",)}, ("cat", "dog")),
    ]
    assert count_pairs(found) == {
        "train and validation": 1,
        "train and test": 2,
        "validation and test": 1,
    }


def test_repeats_within_one_subset_are_none():
    split = split_of(train={"t1": 0, "t2": 1}, validation={}, test={"e1": 0, "e2": 1})
    assert find_duplicates(scan_of({"t1": "A", "t2": "A", "e1": "B", "e2": "B"}), split) == []


def test_images_in_several_classes_of_one_subset_are_found():
    split = split_of(
        train={"t1": 1, "t2": 0, "t3": 0, "t4": 0, "t5": 0},
        validation={"v1": 1},
        test={"e1": 0, "e2": 1, "e3": 1},
    )
    # A: two classes within train and one in test; B: one class within train, another in validation.
    contents = {"t1": "A", "t2": "A", "t3": "A", "t4": "B", "t5": "B", "v1": "B",
                "e1": "C", "e2": "C", "e3": "A"}  # fmt: skip
    assert find_contradictions(scan_of(contents), split) == [
        Contradiction("train", {"cat": ("t2", "t3"), "dog": ("t1",)}),
        Contradiction("test", {"cat": ("e1",), "dog": ("e2",)}),
    ]


def test_hashes_that_only_begin_alike_are_not_taken_for_the_same():
    split = split_of(train={"t1": 0, "t2": 1}, validation={}, test={"e1": 0})
    scan = scan_of({"t1": "A", "t2": "B", "e1": "C"})
    scan.hashes[:, :8] = 7
    assert find_duplicates(scan, split) == []

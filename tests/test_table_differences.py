"""Differences of rows of a table, from records by hand, against sums by hand."""

from typing import Any

import pytest

from tools.tables.definition import Comparison, TableDefinition
from tools.tables.differences import paired_differences

# By method and seed, whether the student was right. Class 0 comes before class 5.
RIGHT = {
    ("first", 3): [1, 1, 1, 0], ("first", 4): [1, 1, 0],
    ("second", 3): [1, 0, 1, 0], ("second", 4): [1, 1, 1],
}  # fmt: skip
LABELS = {3: [0, 0, 5, 5], 4: [0, 5, 5]}
# Class sizes differ from split to split: class 5 is medium-shot in one of them alone.
GROUPS: dict[int, dict[str, list[int]]] = {3: {"many": [0], "medium": [5]}, 4: {"many": [0, 5]}}


def definition(chooses: bool = False) -> TableDefinition:
    comparisons = (Comparison("method", "first"),)
    return TableDefinition("tiny", "", ("method",), (), comparisons, chooses)


def rows_of(**changes: Any) -> dict[str, list[dict[str, Any]]]:
    rows: dict[str, list[dict[str, Any]]] = {"first": [], "second": []}
    for (method, seed), correct in RIGHT.items():
        images = {"labels": LABELS[seed], "correct": correct}
        record = {"values": {"method": method}, "seed": seed, "split": f"split {seed}"}
        record |= {"test": f"images {seed}", "shot_groups": GROUPS[seed], "validation": images}
        rows[method].append(record | images | changes)
    return rows


@pytest.mark.parametrize("chooses", [False, True])
def test_seeds_with_images_of_their_own_are_compared_on_all_of_them(chooses):
    (row,) = paired_differences(definition(chooses), rows_of())
    # Class 0: 3 of 3 and 2 of 3; class 5: 1 + 1 of 4 and 1 + 2 of 4.
    assert row["points"] == f"{100 * ((3 - 2) / 3 + (2 - 3) / 4) / 2:+.1f}"
    # Many-shot: class 0 of both seeds and class 5 of the second; medium-shot: class 5 of the first.
    assert row["many"].startswith(f"{100 * ((3 - 2) / 3 + (1 - 2) / 2) / 2:+.1f} (")
    assert row["medium"] == "+0.0 (+0.0 to +0.0)"
    assert row["seeds"] == "2"


def test_seeds_on_the_same_test_images_are_averaged_image_by_image():
    rows = rows_of(test="one", labels=[0, 5, 5])
    for records in rows.values():
        for record in records:
            record["correct"] = record["correct"][-3:]
    (row,) = paired_differences(definition(), rows)
    # Class 0: 1, 1 and 0, 1; class 5: (1, 0), (1, 0) and (1, 0), (1, 1).
    assert row["points"] == f"{100 * (0.5 - 0.25) / 2:+.1f}"
    assert "few" not in row


def test_no_difference_is_told_where_one_pair_has_other_test_images():
    rows = rows_of()
    rows["second"][1]["test"] = "images of others"
    (row,) = paired_differences(definition(), rows)
    assert (row["points"], row["95 %"]) == ("–", "no predictions for the same images")


def test_a_seed_that_one_row_alone_has_does_not_count():
    rows = rows_of()
    rows["second"].pop()
    (row,) = paired_differences(definition(), rows)
    assert (row["seeds"], row["points"]) == ("1", f"{100 * 0.5 / 2:+.1f}")


def test_records_of_before_have_no_hash_of_their_test_images():
    rows = rows_of(split="one for all", labels=[0], correct=[1])
    for records in rows.values():
        for record in records:
            del record["test"]
    (row,) = paired_differences(definition(), rows)
    assert (row["seeds"], row["points"]) == ("2", "+0.0")

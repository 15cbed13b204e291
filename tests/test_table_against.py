"""One row beside the others, from records by hand."""

from typing import Any

import pytest

from candle_tf.errors import UserError
from tests.test_run_table import definition_file
from tests.test_table_differences import rows_of
from tests.test_table_locks import stand_in
from tests.test_table_records import write_record
from tools import run_table
from tools.tables.against import lines_against
from tools.tables.definition import Comparison, TableDefinition, read_definition
from tools.tables.differences import paired_differences
from tools.tables.records import kept_path

ACCURACIES = {"first": "50.0", "second": "7.5 ± 0.1", "third": "61.2"}


def definition(*compared: str, chooses: bool = False) -> TableDefinition:
    comparisons = tuple(Comparison(axis, "first") for axis in compared)
    return TableDefinition("tiny", "", ("start", "method"), (), comparisons, chooses)


def rows() -> dict[str, list[dict[str, Any]]]:
    """Three methods of one start, and one of them of another start."""
    found: dict[str, list[dict[str, Any]]] = {}
    for start, method in (("s", "first"), ("s", "second"), ("s", "third"), ("p", "first")):
        values = {"start": start, "method": method}
        records = rows_of()["second" if method == "second" else "first"]
        found[f"{start}-{method}"] = [record | {"values": values} for record in records]
    return found


def average(records: list[dict[str, Any]]) -> dict[str, str]:
    values = records[0]["values"]
    mean = ACCURACIES[values["method"]]
    return {**values, "mean %": mean, "validation %": mean, "many %": "1.0", "minutes": "3"}


def test_the_most_accurate_row_is_first_and_the_rows_own_line_has_no_difference():
    lines = lines_against(definition("method"), rows(), "s-first", average)
    assert [line["method"] for line in lines] == ["third", "first", "second"]
    assert lines[1]["minus it"] == ""
    assert lines[0]["minus it"] == "+0.0 (+0.0 to +0.0)"


@pytest.mark.parametrize("chooses", [False, True])
def test_differences_are_those_of_the_whole_table(chooses):
    table = definition("method", chooses=chooses)
    lines = lines_against(table, rows(), "s-first", average)
    (whole,) = (
        row
        for row in paired_differences(table, rows())
        if (row["start"], row["difference"]) == ("s", "first - second")
    )
    assert lines[-1]["minus it"] == f"{whole['points']} ({whole['95 %']})"
    assert lines[-1]["many minus it"] == whole["many"]
    assert whole["points"] == "+4.2"


def test_columns_are_those_that_differ_or_hold_something():
    lines = lines_against(definition("method"), rows(), "s-first", average)
    groups = ["many minus it", "medium minus it"]
    assert list(lines[0]) == ["method", "mean %", "many %", "minus it", *groups]


def test_rows_differ_in_an_axis_that_the_table_compares():
    def names(*compared: str) -> list[tuple[str, str]]:
        lines = lines_against(definition(*compared), rows(), "s-first", average)
        return sorted((line.get("start", "s"), line.get("method", "first")) for line in lines)

    of_method = [("s", "first"), ("s", "second"), ("s", "third")]
    assert names("method") == of_method
    assert names("start") == [("p", "first"), ("s", "first")]
    assert names() == [("p", "first"), *of_method]


@pytest.mark.parametrize(
    ("row", "message"), [("s-fourth", "is no finished row"), ("p-first", "no other finished row")]
)
def test_a_row_that_is_not_there_or_has_none_beside_it_is_refused(row, message):
    with pytest.raises(UserError, match=message):
        lines_against(definition("method"), rows(), row, average)


def test_why_a_cell_failed_is_told_where_the_row_is_its_own(tmp_path, monkeypatch, capsys):
    table = read_definition(definition_file(tmp_path))
    failed, done = table.cells
    write_record(table, 1, tmp_path)
    stand_in(monkeypatch, {failed.name: "raise SystemExit(3)"})
    with pytest.raises(UserError, match=f"{failed.name} ended with code 3"):
        run_table.main(table, tmp_path, {}, against=failed.row)
    assert f"{done.row} " in capsys.readouterr().out


def test_what_is_finished_is_kept_where_the_row_is_not(tmp_path):
    table = read_definition(definition_file(tmp_path))
    missing, done = table.cells
    write_record(table, 1, tmp_path)
    kept = tmp_path / "kept"
    with pytest.raises(UserError, match=f"{missing.row} is no finished row"):
        run_table.main(table, tmp_path, {}, most=0, records=kept, keep=True, against=missing.row)
    assert kept_path(kept, done).exists()

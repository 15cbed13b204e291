"""Logs of a training by column, whole and damaged."""

import csv
import io

import numpy as np
import pytest

from candle_tf.errors import UserError
from candle_tf.reporting.csv_columns import csv_line, read_columns


def test_columns_are_read_by_name(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("kl,fs\n1.5,2\n0.25,-3e-2\n")
    columns = read_columns(path)
    assert list(columns) == ["kl", "fs"]
    np.testing.assert_array_equal(columns["kl"], [1.5, 0.25])
    np.testing.assert_array_equal(columns["fs"], [2, -0.03])


def test_a_log_that_is_missing_or_has_no_row_has_no_columns(tmp_path):
    path = tmp_path / "steps.csv"
    assert read_columns(path) == {}
    for empty in ("", "kl,fs\n"):
        path.write_text(empty)
        assert read_columns(path) == {}


@pytest.mark.parametrize(
    "damaged",
    [b"kl,fs\n1,2\n3\n", b"kl,fs\n1,two\n", b"kl,fs\n1,2,3\n1,\n", b"kl\n1\xff\n", b"kl\n1\0\n"],
)
def test_a_damaged_log_is_told_with_its_place(tmp_path, damaged):
    path = tmp_path / "steps.csv"
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"steps\.csv is damaged: .* Start the run again"):
        read_columns(path)


@pytest.mark.parametrize("cell", ["a\rb.png", "a\r\nb", "a\nb", 'a"b', "a,b", "", "\r", "plain"])
def test_a_line_has_the_cells_that_were_written(cell):
    written = csv_line(["image", "class"]) + csv_line([cell, "cat"])
    rows = list(csv.reader(io.StringIO(written, newline=""), strict=True))
    assert rows == [["image", "class"], [cell, "cat"]]


def test_what_needs_no_quotes_has_none():
    assert csv_line(["a b.png", "cat", ""]) == "a b.png,cat,\n"

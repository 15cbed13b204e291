"""Logs of a training by column, whole and damaged."""

import csv
import io
import tracemalloc

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


def test_values_are_those_of_pythons_reader_to_the_bit(tmp_path):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(400, 3)) * 10.0 ** rng.integers(-300, 300, (400, 3))
    values[3], values[5] = np.nan, [np.inf, -np.inf, -0.0]
    path = tmp_path / "steps.csv"
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([["step", "a, b", 'c "d"'], *values])
    columns = read_columns(path)
    assert list(columns) == ["step", "a, b", 'c "d"']
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for name, found in columns.items():
        expected = np.array([float(row[name]) for row in rows])
        assert found.tobytes() == expected.tobytes()
        assert found.flags.owndata


def test_the_memory_of_a_long_log_is_that_of_its_numbers(tmp_path):
    path = tmp_path / "steps.csv"
    path.write_text("a,b,c,d\n" + "0.25,1e-3,7,0.125\n" * 20_000)
    tracemalloc.start()
    try:
        columns = read_columns(path)
        # The numbers twice, and what is read at a time; dictionaries of the rows took 8 MB.
        assert tracemalloc.get_traced_memory()[1] < 2.5 * 4 * 8 * 20_000
    finally:
        tracemalloc.stop()
    assert [columns[name].sum() for name in "abcd"] == pytest.approx([5e3, 20, 14e4, 2.5e3])


def test_a_log_that_is_missing_or_has_no_row_has_no_columns(tmp_path):
    path = tmp_path / "steps.csv"
    assert read_columns(path) == {}
    for empty in ("", "kl,fs\n"):
        path.write_text(empty)
        assert read_columns(path) == {}


@pytest.mark.parametrize(
    "damaged",
    [
        b"kl,fs\n1,2\n3\n",
        b"kl,fs\n1\n3\n",
        b"kl\n1,2\n",
        b"kl,fs\n1,two\n",
        b"kl,fs\n1,2,3\n1,\n",
        b"kl\n1\xff\n",
        b"kl\n1\0\n",
    ],
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

"""Tables: alignment, what is absent, sizes, and names that are not tame."""

import pytest

from candle_tf.reporting import table

ROWS = [
    {"model": "teacher", "mean": 0.861, "many": 1.0, "medium": 0.75, "few": 0.0, "bytes": None},
    {"model": "student, converted", "mean": 0.5, "many": 0.625, "bytes": 4_912_345},
]


def test_method_table_reads_as_written():
    assert table.method_table(ROWS) == "\n".join(
        [
            "model               mean %  many %  medium %  few %    size",
            "------------------  ------  ------  --------  -----  ------",
            "teacher               86.1   100.0      75.0    0.0       –",
            "student, converted    50.0    62.5         –      –  4.9 MB",
        ]
    )


def test_method_table_in_markdown():
    assert table.method_table(ROWS[1:], markdown=True).splitlines() == [
        "| model              | mean % | many % | medium % | few % |   size |",
        "| ------------------ | -----: | -----: | -------: | ----: | -----: |",
        "| student, converted |   50.0 |   62.5 |        – |     – | 4.9 MB |",
    ]


def test_columns_besides_the_groups_appear_when_a_row_has_them():
    columns, _ = table.method_cells([{"model": "a", "mean": 0.5}])
    assert columns == ["model", "mean %", "many %", "medium %", "few %"]
    columns, cells = table.method_cells(
        [{"model": "a", "mean": 0.5, "ece": 0.04, "head": 0.2}], groups=("head",)
    )
    assert columns == ["model", "mean %", "head %", "ece %"]
    assert cells == [["a", "50.0", "20.0", "4.0"]]


def test_rows_that_are_not_understood_are_refused():
    with pytest.raises(ValueError, match=r"unknown: \['median'\]"):
        table.method_table([{"model": "a", "median": 0.5}])
    with pytest.raises(ValueError, match="needs a 'model'"):
        table.method_table([{"mean": 0.5}])
    with pytest.raises(ValueError, match=r"from 0 to 1, not 86\.1"):
        table.method_table([{"model": "a", "mean": 86.1}])
    with pytest.raises(ValueError, match="from 0 to 1, not nan"):
        table.method_table([{"model": "a", "mean": float("nan")}])
    with pytest.raises(ValueError, match="number for 'mean', not '86'"):
        table.method_table([{"model": "a", "mean": "86"}])
    with pytest.raises(ValueError, match="at least one column"):
        table.text_table([], [])


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_960, "1.0 MB"),
        (1_000_000, "1.0 MB"),
        (1_048_576, "1.0 MB"),
        (29_300_000, "29.3 MB"),
        (2_000_000_000, "2.0 GB"),
        (5_000_000_000_000_000, "5000.0 TB"),
    ],
)
def test_sizes_are_decimal(size, text):
    assert table.human_bytes(size) == text


def test_wide_characters_keep_the_columns_in_line():
    lines = table.text_table([{"a": "猫", "b": 1}, {"a": "é", "b": 22}], ["a", "b"]).splitlines()
    assert lines == ["a      b", "---  ---", "猫     1", "é     22"]


def test_control_characters_do_not_reach_the_terminal():
    text = table.text_table([{"name": "a\x1b[31mb\nc\udcff"}], ["name"])
    assert text.splitlines()[2] == "a�[31mb�c�"


def test_markdown_escapes_what_would_break_the_row():
    text = table.text_table([{"name": "a|b*<c>"}], ["name"], markdown=True)
    assert text.splitlines()[2] == r"| a\|b\*\<c\> |"


def test_left_names_the_columns_flush_left():
    rows = [{"x": "aaaa", "y": "b", "z": "c"}]
    assert table.text_table(rows, ["x", "y", "z"], left=["y"]).splitlines() == [
        "   x  y      z",
        "----  ---  ---",
        "aaaa  b      c",
    ]
    assert table.text_table([], ["x"]) == "x\n---"

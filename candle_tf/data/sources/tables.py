"""Tables as people have them: separators and names of columns.

rows, number = open_table(lines, ".csv")
"""

import csv
import re
from collections.abc import Iterator
from itertools import chain
from typing import Any

KINDS = {".csv": ",", ".tsv": "\t"}
_SEPARATORS = (",", ";", "\t", "|")


def open_table(lines: Iterator[str], kind: str) -> Any:
    """A reader of the rows of a .csv or .tsv file; its `line_num` counts lines.

    The separator is the kind's own, or what the first line with text has instead: spreadsheets of
    many countries write semicolons.

    Args:
        lines: of the file.
        kind: ".csv" or ".tsv".
    """
    first: list[str] = []
    for line in lines:
        first.append(line)
        if line.strip():
            break
    separator = _find_separator(first[-1] if first else "", KINDS[kind])
    return csv.reader(chain(first, lines), delimiter=separator, strict=True)


def column_name(cell: str) -> str:
    """A name of a column as ours are written: "File Name" is "file_name"."""
    return re.sub(r"[\s_-]+", "_", cell.strip().casefold())


def _find_separator(line: str, usual: str) -> str:
    for separator in (usual, *_SEPARATORS):
        if len(next(csv.reader([line], delimiter=separator), [])) > 1:
            return separator
    return usual

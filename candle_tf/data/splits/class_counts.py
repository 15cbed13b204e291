"""Reads the class counts given by --class_counts.

500,300,20                    in the order of the classes' names
counts.json                   {"cat": 500, "dog": 300, "eel": 20} or [500, 300, 20]
counts.csv, counts.tsv        rows of class and count, with or without a header line
"""

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from candle_tf.data.sources.class_names import canonical_class_name
from candle_tf.data.sources.tables import open_table
from candle_tf.errors import UserError
from candle_tf.files import parse_json

_ADVICE = (
    "Give numbers such as 500,300,20 in the order of the classes, a .json file of a list or of "
    "counts by class, or a .csv or .tsv file of rows <class>,<count>."
)
# No data set has more images.
_MAX_DIGITS = 12


def read_class_counts(given: str, class_names: Sequence[str]) -> list[int]:
    """Reads a list of class counts.

    Args:
        given: Whole numbers separated by commas, or the path of a .json, .csv or .tsv file.
        class_names: C names; a file that names classes must name each of them once.

    Returns:
        Whole numbers >= 0: C of them if classes were named, else as many as were given.

    Raises:
        UserError: If the text is neither, or the file cannot be read or lacks a class.
    """
    numbers = [number.strip() for number in given.split(",")]
    if all(number.isdecimal() for number in numbers):
        try:
            return [_parse_count(number) for number in numbers]
        except ValueError as error:
            raise UserError(f"--class_counts: {error}. {_ADVICE}") from error
    readers = {".json": _json_rows, ".csv": _csv_rows, ".tsv": _csv_rows}
    path = Path(given).expanduser()
    if path.suffix.lower() not in readers:
        raise UserError(f"--class_counts={given} cannot be understood. {_ADVICE}")
    try:
        rows = readers[path.suffix.lower()](path)
        if isinstance(rows, dict):
            rows = list(rows.items())
        if not isinstance(rows, list):
            raise ValueError("it has neither a list nor counts by class")
        if not rows:
            raise ValueError("there are none")
        if all(isinstance(row, tuple) for row in rows):
            return _by_class(path, rows, class_names)
        return [_parse_count(row) for row in rows]
    except OSError as error:
        raise UserError(f"{path}: the class counts cannot be read ({error}). {_ADVICE}") from error
    except ValueError as error:
        raise UserError(f"{path}: not valid class counts ({error}). {_ADVICE}") from error


def _json_rows(path: Path) -> object:
    def no_repeats(pairs: list[tuple[str, object]]) -> dict[str, object]:
        names = [canonical_class_name(name.strip()) for name, _ in pairs]
        twice = [name for name, times in Counter(names).items() if times > 1]
        if twice:
            raise ValueError(f"class {twice[0]!r} is there twice")
        return dict(zip(names, (count for _, count in pairs), strict=True))

    return parse_json(path.read_bytes(), object_pairs_hook=no_repeats)


def _csv_rows(path: Path) -> object:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = [row for row in open_table(file, path.suffix.lower()) if row]
    except csv.Error as error:
        raise ValueError(str(error)) from error
    if rows and not rows[0][-1].strip().isdecimal():
        rows = rows[1:]
    wrong = [row for row in rows if len(row) != 2]
    if wrong:
        raise ValueError(f"{','.join(wrong[0])!r} is not a class and a count")
    return [(canonical_class_name(name.strip()), count) for name, count in rows]


def _by_class(path: Path, rows: list[tuple[str, object]], class_names: Sequence[str]) -> list[int]:
    counts = {name: _parse_count(count) for name, count in rows}
    if len(counts) < len(rows):
        twice = Counter(name for name, _ in rows).most_common(1)[0][0]
        raise ValueError(f"class {twice!r} is there twice")
    unknown, missing = counts.keys() - set(class_names), set(class_names) - counts.keys()
    for names, problem in ((unknown, "the data set has no class"), (missing, "no count for class")):
        if names:
            raise UserError(
                f"{path}: {problem} {', '.join(map(repr, sorted(names)[:5]))}"
                f"{f' and {len(names) - 5} more' if len(names) > 5 else ''}. "
                "Name each class of the data set once."
            )
    return [counts[name] for name in class_names]


def _parse_count(value: object) -> int:
    if isinstance(value, str) and value.strip().isdecimal():
        if len(value.strip()) > _MAX_DIGITS:
            raise ValueError(f"a number has more than {_MAX_DIGITS} digits")
        return int(value)
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        if value >= 10**_MAX_DIGITS:
            raise ValueError(f"a number has more than {_MAX_DIGITS} digits")
        return value
    raise ValueError(f"{value!r} is not a whole number")

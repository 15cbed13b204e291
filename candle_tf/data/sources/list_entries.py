"""The entries of one list of images, which is a table or lines of `<path> <label>`.

entries = read_list(Path("ImageNet_LT_train.txt"))[""]
entries.paths[0], entries.labels[entries.label_codes[0]], entries.location(0)
"""

import csv
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import MappingProxyType

from absl import logging

from candle_tf.data.sources.class_names import canonical_class_name
from candle_tf.data.sources.file_tree import canonical_name, is_image, leads_out
from candle_tf.data.sources.source import find_repeats, format_names
from candle_tf.data.sources.subset_names import named_subsets, subset_of_value
from candle_tf.data.sources.tables import KINDS, column_name, open_table
from candle_tf.errors import UserError

LIST_FORMAT = (
    "Expected, in each line, <path> <label>; or a .csv or .tsv file of these two columns, which "
    "may begin with a line of names, such as path,label."
)
_PATH_COLUMNS = (
    "path", "file", "filename", "file_name", "filepath", "image", "image_path", "filepaths",
    "file_path", "image_name", "image_file", "imagepath", "img", "img_path", "img_name",
)  # fmt: skip
_LABEL_COLUMNS = ("label", "class", "class_name", "class_id", "category", "target", "labels")
_SPLIT_COLUMNS = ("split", "subset", "partition", "set", "data_set", "phase")
_SUBSETS = ("train", "test", "validation")
_MAX_LINE = 2**16
# A column of subsets has no more different cells.
_MOST_SUBSETS = 5
# First bytes of ZIP (.xlsx too), gzip and the older .xls.
_BINARY = (b"PK\x03\x04", b"\x1f\x8b", b"\xd0\xcf\x11\xe0")


@dataclass(eq=False)
class Entries:
    """The entries of one list, stored column by column to save memory.

    Attributes:
        path: path of the list.
        paths: as written, NFC, without "./".
        label_codes: index of each entry's label in `labels`.
        lines: line number of each entry.
        labels: the different labels, as written.
        unit: what `lines` counts.
    """

    path: str
    paths: list[str]
    label_codes: array
    lines: array
    labels: list[str]
    unit: str = "line"

    def location(self, entry: int) -> str:
        """E.g. "train.txt, line 7"."""
        return f"{self.path}, {self.unit} {self.lines[entry]}"


def read_list(path: Path) -> dict[str, Entries]:
    """Reads a list.

    Args:
        path: A .csv or .tsv table, or lines of `<path> <label>`, in UTF-8.

    Returns:
        The entries by subset, in a table with a column of subsets; else all of them as "".

    Raises:
        UserError: If it cannot be read, holds no images, or a line is wrong; names the line.
    """
    found: dict[str, _Builder] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, subset, image, label in _rows(file, path):
                if subset not in found:
                    found[subset] = _Builder(path)
                found[subset].add(line, relative_path(image, f"{path}, line {line}"), label)
    except (OSError, ValueError) as error:
        if isinstance(error, UnicodeDecodeError):
            raise UserError(f"{path}: not a text file in UTF-8 ({_fault(path, error)}") from error
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: the list cannot be read ({reason}).") from error
    except csv.Error as error:
        raise UserError(f"{path}: not a readable table ({error}). {LIST_FORMAT}") from error
    if not found:
        raise UserError(f"{path}: the list holds no images. {LIST_FORMAT}")
    return {subset: builder.finish() for subset, builder in found.items()}


def _fault(path: Path, error: UnicodeDecodeError) -> str:
    with path.open("rb") as file:
        start = file.read(8)
    if start.startswith(_BINARY):
        return "but a spreadsheet or an archive). Export it as CSV in UTF-8."
    return f"{error}). Save the list as UTF-8."


class _Builder:
    """Collects the entries of one subset."""

    def __init__(self, path: Path) -> None:
        self._entries = Entries(str(path), [], array("i"), array("L"), [])
        self._codes: dict[str, int] = {}

    def add(self, line: int, image: str, label: str) -> None:
        self._entries.paths.append(image)
        self._entries.label_codes.append(self._codes.setdefault(label, len(self._codes)))
        self._entries.lines.append(line)

    def finish(self) -> Entries:
        """The entries.

        Raises:
            UserError: If an image is there twice, or the first line looks like names of columns.
        """
        entries = self._entries
        entries.labels = list(self._codes)
        if len(entries.paths) > 1 and not is_image(entries.paths[0]) and is_image(entries.paths[1]):
            raise unknown_header(entries)
        if twice := set(find_repeats(entries.paths)):
            first, second = _first_repeat(entries, twice)
            raise UserError(
                f"{entries.location(second)}: {entries.paths[second]!r} is already in line "
                f"{entries.lines[first]}. Remove one of them."
            )
        return entries


def unknown_header(entries: Entries) -> UserError:
    """The error for a first line that names columns, but none that are known."""
    names = [entries.paths[0], entries.labels[entries.label_codes[0]]]
    return UserError(
        f"{entries.location(0)}: {', '.join(map(repr, names))} look like names of columns that "
        f"are not known. Name the column of paths {_PATH_COLUMNS[0]!r} and that of labels "
        f"{_LABEL_COLUMNS[0]!r}, or remove the line."
    )


def _first_repeat(entries: Entries, twice: set[str]) -> tuple[int, int]:
    seen: dict[str, int] = {}
    for i, path in enumerate(entries.paths):
        if path in seen:
            return seen[path], i
        if path in twice:
            seen[path] = i
    raise AssertionError("no path is repeated")


def _rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, str, str, str]]:
    """(line number, subset or "", path, label) of each entry."""
    kind = path.suffix.lower()
    if kind not in KINDS:
        yield from _space_rows(file, path)
        return
    rows = open_table(_text_lines(file, path), kind)
    columns: _Columns | None = None
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if columns is None:
            columns = _header(row, path)
            if columns is not None:
                continue
            columns = _Columns(2, 0, 1, None, _OtherColumns())
            if len(row) != 2:
                raise UserError(
                    f"{path}, line {rows.line_num}: {len(row)} columns where 2 are expected, and "
                    f"no names of columns in the first line. {LIST_FORMAT}"
                )
            if is_image(row[1].strip()) and not is_image(row[0].strip()):
                raise UserError(
                    f"{path}, line {rows.line_num}: the paths are in the second column. Begin the "
                    "file with the names of its columns: label,path."
                )
        columns.others.add(row)
        location = f"{path}, line {rows.line_num}"
        if any(cell.strip() for cell in row[columns.count :]):
            raise UserError(
                f"{location}: {len(row)} cells where there are {columns.count} columns. Put cells "
                f"that contain the separator in double quotes. {LIST_FORMAT}"
            )
        if len(row) <= columns.last:
            raise UserError(f"{location}: only {len(row)} columns. {LIST_FORMAT}")
        subset = "" if columns.split is None else _subset(row[columns.split], location)
        image, label = _require_path_and_label(
            row[columns.path], row[columns.label], path, rows.line_num
        )
        yield rows.line_num, subset, image, label
    if columns is not None and columns.split is None:
        columns.others.refuse_subsets(path)


class _OtherColumns:
    """The different cells of columns that are not used, as long as all of them name subsets."""

    def __init__(self, names: Mapping[int, str] = MappingProxyType({})) -> None:
        self._names = names
        self._cells: dict[int, set[str]] = {column: set() for column in names}

    def add(self, row: list[str]) -> None:
        """Adds a row; leaves out the columns that are none of subsets. Empty cells name nothing."""
        for column, cells in list(self._cells.items()):
            cell = row[column].strip() if column < len(row) else ""
            if cell and cell not in cells:
                if len(cells) < _MOST_SUBSETS and len(named_subsets(cell)) == 1:
                    cells.add(cell)
                else:
                    del self._cells[column]

    def refuse_subsets(self, path: Path) -> None:
        """Refuses a column of subsets of another name: test images would be trained on.

        Raises:
            UserError: If the cells of a column name at least two subsets.
        """
        for column, cells in self._cells.items():
            if len({subset for cell in cells for subset in named_subsets(cell)}) > 1:
                raise UserError(
                    f"{path}: the column {self._names[column]!r} names subsets "
                    f"({format_names(cells)}), and is not used under this name: call it 'split', "
                    f"with the cells {', '.join(_SUBSETS)}; or remove it."
                )


@dataclass(frozen=True)
class _Columns:
    """How many columns a table has, which are read, and the others."""

    count: int
    path: int
    label: int
    split: int | None
    others: _OtherColumns

    @property
    def last(self) -> int:
        """The last column that every row needs."""
        return max(self.path, self.label, self.split or 0)


def _subset(cell: str, location: str) -> str:
    subset = subset_of_value(cell.strip())
    if not subset:
        raise UserError(
            f"{location}: the subset {cell.strip()!r} is not known; it is one of "
            f"{', '.join(_SUBSETS)}. Correct it, or rename the column."
        )
    return subset


def _space_rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, str, str, str]]:
    """Rows of a list file; the label is what follows the last space or tab."""
    for number, line in enumerate(_text_lines(file, path), start=1):
        words = line.strip().rsplit(None, 1)
        if words and words[0][-1] in ",;" and not is_image(words[0]):
            words = words[:1]
        if len(words) == 1:
            separated = set(",;|").intersection(words[0])
            hint = "Name a table with separators .csv. " if separated else ""
            raise UserError(f"{path}, line {number}: no label. {hint}{LIST_FORMAT}")
        if words and is_image(words[1]) and not is_image(words[0]):
            raise UserError(
                f"{path}, line {number}: the label is before the path. Write the path first. "
                f"{LIST_FORMAT}"
            )
        if words:
            yield number, "", *_require_path_and_label(words[0], words[1], path, number)


def _text_lines(file: Iterator[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if number == 1 and line.lstrip().startswith(("{", "[")):
            raise UserError(
                f"{path}: JSON, not a list. Annotations of COCO or iNaturalist are read by "
                f"--dataset=coco. {LIST_FORMAT}"
            )
        if len(line) > _MAX_LINE or "\0" in line:
            raise UserError(f"{path}, line {number}: not a line of text. {LIST_FORMAT}")
        yield line


def _header(row: list[str], path: Path) -> _Columns | None:
    """The columns, if the row names some that are known."""
    names = [column_name(cell) for cell in row]
    images = [i for i, name in enumerate(names) if name in _PATH_COLUMNS]
    labels = [i for i, name in enumerate(names) if name in _LABEL_COLUMNS]
    if not images and not labels:
        return None
    splits = [i for i, name in enumerate(names) if name in _SPLIT_COLUMNS]
    if len(splits) > 1:
        raise UserError(
            f"{path}, line 1: the columns {format_names(names[i] for i in splits)} all name "
            "subsets. Keep one of them."
        )
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"{path}, line 1: the columns {format_names(names)} do not tell one for paths (one of "
            f"{', '.join(_PATH_COLUMNS)}) and one for labels (one of {', '.join(_LABEL_COLUMNS)})."
        )
    used = images + labels + splits
    unused = {i: name for i, name in enumerate(names) if name and i not in used}
    if unused:
        logging.warning("%s: the columns %s are not used", path, format_names(unused.values()))
    split = splits[0] if splits else None
    return _Columns(len(row), images[0], labels[0], split, _OtherColumns(unused))


def _require_path_and_label(image: str, label: str, path: Path, line: int) -> tuple[str, str]:
    image, label = image.strip(), label.strip()
    if not image or not label:
        raise UserError(f"{path}, line {line}: no {'label' if image else 'path'}. {LIST_FORMAT}")
    for cell in (image, label):
        if len(cell.splitlines()) > 1:
            raise UserError(
                f"{path}, line {line}: {cell!r} has a line break, which no path or class name can "
                "have. Replace it by a space."
            )
    name = canonical_class_name(label)
    if not name:
        raise UserError(f"{path}, line {line}: no label. {LIST_FORMAT}")
    return image, name


def relative_path(image: str, location: str) -> str:
    """The canonical relative path; an error if it leaves the folder of the images."""
    if "://" in image:
        raise UserError(
            f"{location}: the path {image!r} is a URL. Fetch the images, and write paths relative "
            "to --data_dir."
        )
    image = image.replace("\\", "/")  # as written on Windows
    if image.startswith("~") and "/" in image:
        raise UserError(
            f"{location}: the path {image!r} begins with a home folder. Write it relative to "
            "--data_dir; if it is a folder there whose name begins with ~, write ./ before it."
        )
    parts = PurePosixPath(image).parts if "./" in image or "//" in image else None
    name = canonical_name("/".join(parts) if parts and image[0] != "/" else image, location)
    if leads_out(name):
        raise UserError(
            f"{location}: the path {image!r} is absolute or has '..'. Write it "
            "relative to --data_dir."
        )
    return name

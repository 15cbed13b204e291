"""Lists of images: CSV, TSV, or lines of `<path> <label>`, as ImageNet-LT and Places-LT ship.

    with open_source("list", "imagenet.tar", train_list="ImageNet_LT_train.txt",
                     test_list="ImageNet_LT_test.txt") as source: ...

Paths are relative to the folder or archive of the images. Labels are class numbers from 0, or
names of classes; numbers if every label of every list is one. Names are sorted into label order,
unless a file of class names gives it.
"""

import csv
import re
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from unicodedata import normalize

import numpy as np
from absl import logging

from candle_tf.data.sources.archives import open_tree
from candle_tf.data.sources.file_tree import Tree, canonical, read_file, stamp_of_file, tree_source
from candle_tf.data.sources.source import (
    Partition,
    Place,
    Source,
    listing,
    repeated,
    require_every_class,
)
from candle_tf.errors import UserError

_FORMAT = (
    "Expected, in each line, <path> <label>; or a .csv or .tsv file of these two columns, which "
    "may begin with a line of names, such as path,label."
)
_PATH_COLUMNS = ("path", "file", "filename", "file_name", "filepath", "image", "image_path")
_LABEL_COLUMNS = ("label", "class", "class_name", "class_id", "category", "target")
_NUMBER = re.compile(r"[+-]?[0-9]+")
_MAX_LINE = 2**16


@dataclass(eq=False)
class _Entries:
    """What one list says, column by column, to be small.

    Attributes:
        place: path of the list.
        paths: as written, NFC, without "./".
        codes: index of each entry's label in `labels`.
        lines: line number of each entry.
        labels: the different labels, as written.
    """

    place: str
    paths: list[str]
    codes: array
    lines: array
    labels: list[str]

    def where(self, entry: int) -> str:
        """E.g. "train.txt, line 7"."""
        return f"{self.place}, line {self.lines[entry]}"


def open_list(name: str, place: Place) -> Source:
    """Opens images that are listed in files.

    Raises:
        UserError: If a file is missing or says what cannot be; names the file and the line.
    """
    for flag in ("data_dir", "train_list"):
        if not getattr(place, flag):
            raise UserError(f"The data set {name!r} needs --{flag}. {_FORMAT}")
    given = {
        "train": place.train_list,
        "test": place.test_list,
        "validation": place.validation_list,
    }
    lists = {part: _read_list(Path(path)) for part, path in given.items() if path}
    class_names, parts = _label(lists, _read_names(place.class_names))
    _refuse_shared(lists)
    tree = _images(Path(place.data_dir).expanduser(), lists, place.scratch)

    return tree_source(name, class_names, parts, tree)


# --- Reading one list


def _read_list(path: Path) -> _Entries:
    entries = _Entries(str(path), [], array("i"), array("L"), [])
    codes: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, image, label in _rows(file, path):
                entries.paths.append(_relative(image, path, line))
                entries.codes.append(codes.setdefault(label, len(codes)))
                entries.lines.append(line)
    except OSError as error:
        raise UserError(f"{path}: the list cannot be read ({error.strerror or error}).") from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: not a text file in UTF-8 ({error}). Save the list as UTF-8."
        ) from error
    except csv.Error as error:
        raise UserError(f"{path}: not a readable table ({error}). {_FORMAT}") from error
    if not entries.paths:
        raise UserError(f"{path}: the list holds no images. {_FORMAT}")
    entries.labels = list(codes)
    if twice := set(repeated(entries.paths)):
        first, second = _two_places(entries, twice)
        raise UserError(
            f"{entries.where(second)}: {entries.paths[second]!r} stands in line "
            f"{entries.lines[first]} already. Remove one of them."
        )
    return entries


def _two_places(entries: _Entries, twice: set[str]) -> tuple[int, int]:
    seen: dict[str, int] = {}
    for i, path in enumerate(entries.paths):
        if path in seen:
            return seen[path], i
        if path in twice:
            seen[path] = i
    raise AssertionError("no path stands twice")


def _rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, path, label) of each entry."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv"):
        yield from _space_rows(file, path)
        return
    rows = csv.reader(_bounded(file, path), delimiter="," if kind == ".csv" else "\t", strict=True)
    columns: tuple[int, int] | None = None
    for row in rows:
        if not any(cell.strip() for cell in row):
            continue
        if columns is None:
            columns = _header(row, path)
            if columns is not None:
                continue
            columns = (0, 1)
            if len(row) != 2:
                raise UserError(
                    f"{path}, line {rows.line_num}: {len(row)} columns where 2 are expected, and "
                    f"no names of columns in the first line. {_FORMAT}"
                )
        if len(row) <= max(columns):
            raise UserError(f"{path}, line {rows.line_num}: only {len(row)} columns. {_FORMAT}")
        yield rows.line_num, *_checked(row[columns[0]], row[columns[1]], path, rows.line_num)


def _space_rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, str, str]]:
    """Rows of a list file; the label is what follows the last space or tab."""
    for number, line in enumerate(_bounded(file, path), start=1):
        words = line.strip().rsplit(None, 1)
        if len(words) == 1:
            raise UserError(f"{path}, line {number}: no label. {_FORMAT}")
        if words:
            yield number, *_checked(words[0], words[1], path, number)


def _bounded(file: Iterator[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if len(line) > _MAX_LINE or "\0" in line:
            raise UserError(f"{path}, line {number}: not a line of text. {_FORMAT}")
        yield line


def _header(row: list[str], path: Path) -> tuple[int, int] | None:
    """Columns of path and label, if the row names columns."""
    names = [cell.strip().casefold() for cell in row]
    images = [i for i, name in enumerate(names) if name in _PATH_COLUMNS]
    labels = [i for i, name in enumerate(names) if name in _LABEL_COLUMNS]
    if not images and not labels:
        return None
    if len(images) != 1 or len(labels) != 1:
        raise UserError(
            f"{path}, line 1: the columns {listing(names)} do not tell one for paths (one of "
            f"{', '.join(_PATH_COLUMNS)}) and one for labels (one of {', '.join(_LABEL_COLUMNS)})."
        )
    return images[0], labels[0]


def _checked(image: str, label: str, path: Path, line: int) -> tuple[str, str]:
    image, label = image.strip(), label.strip()
    if not image or not label:
        raise UserError(f"{path}, line {line}: no {'label' if image else 'path'}. {_FORMAT}")
    return image, label


def _relative(image: str, path: Path, line: int) -> str:
    """The canonical relative path; refuses what leads out of the folder of the images."""
    image = image.replace("\\", "/")  # as written on Windows
    parts = PurePosixPath(image).parts if "./" in image or "//" in image else None
    name = canonical("/".join(parts) if parts and image[0] != "/" else image)
    if name.startswith(("/", "~")) or ".." in name.split("/") or name[1:2] == ":":
        raise UserError(
            f"{path}, line {line}: the path {image!r} is absolute or has '..'. Write it "
            "relative to --data_dir."
        )
    return name


# --- Labels


def _read_names(path: str) -> tuple[str, ...] | None:
    if not path:
        return None
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: the names of classes cannot be read ({error}).") from error
    names = tuple(line.strip() for line in lines)
    while names and not names[-1]:
        names = names[:-1]
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name or name in seen:
            told = f"{name!r} stands in line {seen[name]} already" if name else "no name"
            raise UserError(f"{path}, line {number}: {told}. Give one class name on each line.")
        seen[name] = number
    return names


def _label(
    lists: dict[str, _Entries], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, Partition]]:
    """Class names, and the partition of each list."""
    numbers = all(_NUMBER.fullmatch(label) for part in lists.values() for label in part.labels)
    train = lists["train"]
    if names is None and numbers:
        # More classes than images cannot be; the first label beyond is named below.
        classes = min(1 + max(map(int, train.labels)), len(train.paths) + 1)
        names = tuple(map(str, range(max(classes, 1))))
    elif names is None:
        names = tuple(sorted(train.labels))
    index = {name: i for i, name in enumerate(names)}
    parts = {
        part: Partition(tuple(entries.paths), _class_numbers(entries, names, index, numbers))
        for part, entries in lists.items()
    }
    require_every_class(parts["train"].labels, names, train.place)
    _warn_of_lacking(lists, parts, names)
    return names, parts


def _class_numbers(
    entries: _Entries, names: tuple[str, ...], index: dict[str, int], numbers: bool
) -> np.ndarray:
    table = np.empty(len(entries.labels), np.int32)
    for code, label in enumerate(entries.labels):
        value = int(label) if numbers else index.get(label, -1)
        if not 0 <= value < len(names):
            allowed = f"from 0 to {len(names) - 1}" if numbers else f"among {listing(names)}"
            first = entries.codes.index(code)
            raise UserError(
                f"{entries.where(first)}: the label {label!r} is not {allowed}. Correct the label, "
                "or add the class to the training list and to --class_names, if that is given."
            )
        table[code] = value
    return table[np.frombuffer(entries.codes, np.int32)]


def _warn_of_lacking(
    lists: dict[str, _Entries], parts: dict[str, Partition], names: tuple[str, ...]
) -> None:
    for part in ("test", "validation"):
        if part in parts:
            present = np.bincount(parts[part].labels, minlength=len(names))
            if lacking := [names[c] for c in np.flatnonzero(present == 0)]:
                logging.warning(
                    "%s lacks the class %s: it is learned, but not measured there",
                    lists[part].place,
                    listing(lacking),
                )


def _refuse_shared(lists: dict[str, _Entries]) -> None:
    """Refuses an image that is in two lists."""
    seen = set(lists["test"].paths) if "test" in lists else set()
    for part in ("validation", "train"):
        if part in lists:
            for i, path in enumerate(lists[part].paths):
                if path in seen:
                    raise UserError(
                        f"{lists[part].where(i)}: {path!r} stands in another list too. An image "
                        "is learned from, chosen by or tested on; remove it from one list."
                    )
            if part == "validation":
                seen |= set(lists[part].paths)


# --- Images


def _images(root: Path, lists: dict[str, _Entries], scratch: str) -> Tree:
    """The listed images as a tree. A folder is not walked, so that millions of files need not be
    looked at; of an archive all names are known, and a missing one is told at once."""
    if root.exists() and not root.is_dir():
        tree = open_tree(root, scratch=scratch)
        try:
            _require_members(tree, lists)
        except BaseException:
            tree.close()
            raise
        return tree
    if not root.is_dir():
        raise UserError(f"{root} does not exist. Give the folder or archive that lists refer to.")
    known = frozenset(path for entries in lists.values() for path in entries.paths)

    def path_of(name: str) -> Path:
        if name not in known:
            raise KeyError(name)
        path = root / name
        # macOS spells accents with other code points.
        return path if name.isascii() or path.exists() else root / normalize("NFD", name)

    return Tree(
        str(root),
        (),
        frozenset(),
        lambda name: read_file(path_of(name)),
        lambda name: stamp_of_file(path_of(name)),
        lambda: None,
    )


def _require_members(tree: Tree, lists: dict[str, _Entries]) -> None:
    present = frozenset(tree.files)
    for entries in lists.values():
        missing = [path for path in entries.paths if path not in present]
        if missing:
            first = entries.paths.index(missing[0])
            raise UserError(
                f"{entries.where(first)}: {tree.place} holds no {missing[0]!r}, and {len(missing)} "
                "of this list's images are not in it. Give the archive that the list refers to."
            )

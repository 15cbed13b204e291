"""Lists of images: CSV, TSV, or lines of `<path> <label>`, as ImageNet-LT and Places-LT ship.

    with open_source("list", "imagenet.tar", train_list="ImageNet_LT_train.txt",
                     test_list="ImageNet_LT_test.txt") as source: ...

Paths are relative to the folder or archive of the images. Labels are class indices from 0 if every
label of every list is a whole number, else class names. Names are sorted to get label order, unless
a file of class names gives the order.
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
from candle_tf.data.sources.file_tree import (
    FileTree,
    canonical_name,
    file_change_token,
    read_file,
    tree_source,
)
from candle_tf.data.sources.source import (
    LabelledImages,
    Source,
    SourceConfig,
    find_repeats,
    format_names,
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
    """The entries of one list, stored column by column to save memory.

    Attributes:
        path: path of the list.
        paths: as written, NFC, without "./".
        label_codes: index of each entry's label in `labels`.
        lines: line number of each entry.
        labels: the different labels, as written.
    """

    path: str
    paths: list[str]
    label_codes: array
    lines: array
    labels: list[str]

    def location(self, entry: int) -> str:
        """E.g. "train.txt, line 7"."""
        return f"{self.path}, line {self.lines[entry]}"


def open_list(name: str, config: SourceConfig) -> Source:
    """Opens images that are listed in files.

    Raises:
        UserError: If a file is missing or wrong; names the file and the line.
    """
    for flag in ("data_dir", "train_list"):
        if not getattr(config, flag):
            raise UserError(f"The data set {name!r} needs --{flag}. {_FORMAT}")
    given = {
        "train": config.train_list,
        "test": config.test_list,
        "validation": config.validation_list,
    }
    lists = {subset: _read_list(Path(path)) for subset, path in given.items() if path}
    class_names, subsets = _label_lists(lists, _read_names(config.class_names))
    _refuse_shared_images(lists)
    tree = _images(Path(config.data_dir).expanduser(), lists, config.scratch)

    return tree_source(name, class_names, subsets, tree)


# --- Reading one list


def _read_list(path: Path) -> _Entries:
    entries = _Entries(str(path), [], array("i"), array("L"), [])
    codes: dict[str, int] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            for line, image, label in _rows(file, path):
                entries.paths.append(_relative_path(image, path, line))
                entries.label_codes.append(codes.setdefault(label, len(codes)))
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
    if twice := set(find_repeats(entries.paths)):
        first, second = _first_repeat(entries, twice)
        raise UserError(
            f"{entries.location(second)}: {entries.paths[second]!r} is already in line "
            f"{entries.lines[first]}. Remove one of them."
        )
    return entries


def _first_repeat(entries: _Entries, twice: set[str]) -> tuple[int, int]:
    seen: dict[str, int] = {}
    for i, path in enumerate(entries.paths):
        if path in seen:
            return seen[path], i
        if path in twice:
            seen[path] = i
    raise AssertionError("no path is repeated")


def _rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, str, str]]:
    """(line number, path, label) of each entry."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".tsv"):
        yield from _space_rows(file, path)
        return
    rows = csv.reader(
        _text_lines(file, path), delimiter="," if kind == ".csv" else "\t", strict=True
    )
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
        yield (
            rows.line_num,
            *_require_path_and_label(row[columns[0]], row[columns[1]], path, rows.line_num),
        )


def _space_rows(file: Iterator[str], path: Path) -> Iterator[tuple[int, str, str]]:
    """Rows of a list file; the label is what follows the last space or tab."""
    for number, line in enumerate(_text_lines(file, path), start=1):
        words = line.strip().rsplit(None, 1)
        if len(words) == 1:
            raise UserError(f"{path}, line {number}: no label. {_FORMAT}")
        if words:
            yield number, *_require_path_and_label(words[0], words[1], path, number)


def _text_lines(file: Iterator[str], path: Path) -> Iterator[str]:
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
            f"{path}, line 1: the columns {format_names(names)} do not tell one for paths (one of "
            f"{', '.join(_PATH_COLUMNS)}) and one for labels (one of {', '.join(_LABEL_COLUMNS)})."
        )
    return images[0], labels[0]


def _require_path_and_label(image: str, label: str, path: Path, line: int) -> tuple[str, str]:
    image, label = image.strip(), label.strip()
    if not image or not label:
        raise UserError(f"{path}, line {line}: no {'label' if image else 'path'}. {_FORMAT}")
    return image, label


def _relative_path(image: str, path: Path, line: int) -> str:
    """The canonical relative path; an error if it leaves the folder of the images."""
    image = image.replace("\\", "/")  # as written on Windows
    parts = PurePosixPath(image).parts if "./" in image or "//" in image else None
    name = canonical_name("/".join(parts) if parts and image[0] != "/" else image)
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
            fault = f"{name!r} is already in line {seen[name]}" if name else "no name"
            raise UserError(f"{path}, line {number}: {fault}. Give one class name on each line.")
        seen[name] = number
    return names


def _label_lists(
    lists: dict[str, _Entries], names: tuple[str, ...] | None
) -> tuple[tuple[str, ...], dict[str, LabelledImages]]:
    """Class names, and the labelled images of each list."""
    numbers = all(_NUMBER.fullmatch(label) for subset in lists.values() for label in subset.labels)
    train = lists["train"]
    if names is None and numbers:
        # There cannot be more classes than images; `_class_numbers` names the first label beyond.
        classes = min(1 + max(map(int, train.labels)), len(train.paths) + 1)
        names = tuple(map(str, range(max(classes, 1))))
    elif names is None:
        names = tuple(sorted(train.labels))
    index = {name: i for i, name in enumerate(names)}
    subsets = {
        subset: LabelledImages(tuple(entries.paths), _class_numbers(entries, names, index, numbers))
        for subset, entries in lists.items()
    }
    require_every_class(subsets["train"].labels, names, train.path)
    _warn_of_missing_classes(lists, subsets, names)
    return names, subsets


def _class_numbers(
    entries: _Entries, names: tuple[str, ...], index: dict[str, int], numbers: bool
) -> np.ndarray:
    table = np.empty(len(entries.labels), np.int32)
    for code, label in enumerate(entries.labels):
        value = int(label) if numbers else index.get(label, -1)
        if not 0 <= value < len(names):
            allowed = f"from 0 to {len(names) - 1}" if numbers else f"among {format_names(names)}"
            first = entries.label_codes.index(code)
            raise UserError(
                f"{entries.location(first)}: the label {label!r} is not {allowed}. Correct the "
                "label, or add the class to the training list and to --class_names, if given."
            )
        table[code] = value
    return table[np.frombuffer(entries.label_codes, np.int32)]


def _warn_of_missing_classes(
    lists: dict[str, _Entries], subsets: dict[str, LabelledImages], names: tuple[str, ...]
) -> None:
    for subset in ("test", "validation"):
        if subset in subsets:
            present = np.bincount(subsets[subset].labels, minlength=len(names))
            if lacking := [names[c] for c in np.flatnonzero(present == 0)]:
                logging.warning(
                    "%s lacks the class %s: it is trained on, but not evaluated there",
                    lists[subset].path,
                    format_names(lacking),
                )


def _refuse_shared_images(lists: dict[str, _Entries]) -> None:
    """Checks that no image is in two lists."""
    seen = set(lists["test"].paths) if "test" in lists else set()
    for subset in ("validation", "train"):
        if subset in lists:
            for i, path in enumerate(lists[subset].paths):
                if path in seen:
                    raise UserError(
                        f"{lists[subset].location(i)}: {path!r} is also in another list. Training, "
                        "validation and test images must differ: remove it from one list."
                    )
            if subset == "validation":
                seen |= set(lists[subset].paths)


# --- Images


def _images(root: Path, lists: dict[str, _Entries], scratch: str) -> FileTree:
    """The listed images as a tree.

    A folder is not walked, which would be slow for millions of files. The names in an archive are
    known, so a missing one is an error at once.
    """
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
        # macOS writes accents with other code points.
        return path if name.isascii() or path.exists() else root / normalize("NFD", name)

    return FileTree(
        str(root),
        (),
        frozenset(),
        lambda name: read_file(path_of(name)),
        lambda name: file_change_token(path_of(name)),
        lambda: None,
    )


def _require_members(tree: FileTree, lists: dict[str, _Entries]) -> None:
    present = frozenset(tree.files)
    for entries in lists.values():
        missing = [path for path in entries.paths if path not in present]
        if missing:
            first = entries.paths.index(missing[0])
            raise UserError(
                f"{entries.location(first)}: {tree.path} has no {missing[0]!r} "
                f"(missing images of this list: {len(missing)}). Give the archive of the list."
            )

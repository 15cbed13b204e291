"""Lists of images: CSV, TSV, or lines of `<path> <label>`, as ImageNet-LT and Places-LT ship.

    with open_source("list", "imagenet.tar", train_list="ImageNet_LT_train.txt",
                     test_list="ImageNet_LT_test.txt") as source: ...

Paths are relative to the folder or archive of the images. Labels are class indices from 0 if every
label of every list is a whole number (1 or 1.0), else class names. Names are sorted to get label
order, unless a file of class names gives the order. A table with a column "split" holds several
subsets.
"""

import csv
import os
import re
from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from candle_tf.data.sources.archives import open_tree
from candle_tf.data.sources.class_names import canonical_class_name, warn_of_names_alike
from candle_tf.data.sources.file_tree import (
    EXTENSIONS,
    FileTree,
    below,
    canonical_name,
    file_change_token,
    find_on_disk,
    is_image,
    leads_out,
    read_file,
    tree_source,
    wrapping_folder,
)
from candle_tf.data.sources.source import (
    LabelledImages,
    Source,
    SourceConfig,
    find_repeats,
    format_names,
    require_every_class,
    sort_classes,
)
from candle_tf.data.sources.subset_names import subset_of_value
from candle_tf.data.sources.tables import KINDS, column_name, open_table
from candle_tf.errors import UserError

_FORMAT = (
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
# Tables that were joined or had a gap have 1.0 for 1.
_NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?")
# What tables have for a missing number, and numbers that are no class index.
_NO_CLASS = re.compile(r"nan|null|none|n/a|<na>|[+-]?[0-9]*\.[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)
# Longer ones are larger than any class index.
_MAX_DIGITS = 12
_MAX_LINE = 2**16
# First bytes of ZIP (.xlsx too), gzip and the older .xls.
_BINARY = (b"PK\x03\x04", b"\x1f\x8b", b"\xd0\xcf\x11\xe0")
# So many images of a list are searched in a folder before training is prepared.
_FIRST_IMAGES = 20


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


def open_list(name: str, config: SourceConfig) -> Source:
    """Opens images that are listed in files.

    Raises:
        UserError: If a file is missing or wrong; names the file and the line.
    """
    for flag in ("data_dir", "train_list"):
        if not getattr(config, flag):
            raise UserError(f"The data set {name!r} needs --{flag}. {_FORMAT}")
    lists = _read_lists(config)
    return list_source(name, config, lists)


def list_source(
    name: str,
    config: SourceConfig,
    lists: dict[str, "Entries"],
    numbers_are_indices: bool = True,
) -> Source:
    """Makes a data set of listed images.

    Args:
        name: Of the data set.
        config: `data_dir`, `class_names` and `known_classes` are used.
        lists: "train" and, where there are any, "test" and "validation"; of images that are only
            measured, any of them.
        numbers_are_indices: Whether labels are class indices where all are whole numbers; if not,
            they are class names.

    Raises:
        UserError: If labels, class names, lists or images do not fit each other.
    """
    names = _read_names(config.class_names)
    if config.known_classes:
        lists = _with_test_subset(lists)
        names, numbers = _known_labels(lists, names, config.known_classes, numbers_are_indices)
    else:
        names, numbers = _learned_labels(lists, names, numbers_are_indices)
    subsets = _subsets_of_lists(lists, names, numbers, bool(config.known_classes))
    _refuse_shared_images(lists)
    tree = _images(config, lists)
    try:
        _check_first_names(tree, lists)
    except BaseException:
        tree.close()
        raise
    return tree_source(name, names, subsets, tree)


def _read_lists(config: SourceConfig) -> dict[str, "Entries"]:
    given = {
        "train": config.train_list,
        "test": config.test_list,
        "validation": config.validation_list,
    }
    lists = {subset: _read_list(Path(path).expanduser()) for subset, path in given.items() if path}
    found: dict[str, Entries] = {}
    for subset, by_subset in lists.items():
        # Without a column of subsets, all entries are of the list's own.
        own = {subset if name == "" else name: entries for name, entries in by_subset.items()}
        for name, entries in own.items():
            if name in found or (name in lists and name != subset):
                raise UserError(
                    f"{entries.location(0)}: the column of subsets names {name}, but "
                    f"--{name}_list={given[name]} is given too. Leave one of them out."
                )
            found[name] = entries
    if "train" not in found and not config.known_classes:
        raise UserError(
            f"{config.train_list}: the column of subsets names no training images. Name them "
            "'train'."
        )
    return found


def _with_test_subset(lists: dict[str, "Entries"]) -> dict[str, "Entries"]:
    """The same lists; of a measurement without a test subset, validation is that, as in folders."""
    if "test" in lists or "validation" not in lists:
        return lists
    logging.info("%s: validation becomes the test subset", lists["validation"].path)
    others = {subset: entries for subset, entries in lists.items() if subset != "validation"}
    return {**others, "test": lists["validation"]}


# --- Reading one list


def _read_list(path: Path) -> dict[str, Entries]:
    """The entries by subset, in a table with a column of subsets; else all of them as ""."""
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
        raise UserError(f"{path}: not a readable table ({error}). {_FORMAT}") from error
    if not found:
        raise UserError(f"{path}: the list holds no images. {_FORMAT}")
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
            raise _unknown_header(entries)
        if twice := set(find_repeats(entries.paths)):
            first, second = _first_repeat(entries, twice)
            raise UserError(
                f"{entries.location(second)}: {entries.paths[second]!r} is already in line "
                f"{entries.lines[first]}. Remove one of them."
            )
        return entries


def _unknown_header(entries: Entries) -> UserError:
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
            columns = _Columns(2, 0, 1, None)
            if len(row) != 2:
                raise UserError(
                    f"{path}, line {rows.line_num}: {len(row)} columns where 2 are expected, and "
                    f"no names of columns in the first line. {_FORMAT}"
                )
            if is_image(row[1].strip()) and not is_image(row[0].strip()):
                raise UserError(
                    f"{path}, line {rows.line_num}: the paths are in the second column. Begin the "
                    "file with the names of its columns: label,path."
                )
        location = f"{path}, line {rows.line_num}"
        if any(cell.strip() for cell in row[columns.count :]):
            raise UserError(
                f"{location}: {len(row)} cells where there are {columns.count} columns. Put cells "
                f"that contain the separator in double quotes. {_FORMAT}"
            )
        if len(row) <= columns.last:
            raise UserError(f"{location}: only {len(row)} columns. {_FORMAT}")
        subset = "" if columns.split is None else _subset(row[columns.split], location)
        image, label = _require_path_and_label(
            row[columns.path], row[columns.label], path, rows.line_num
        )
        yield rows.line_num, subset, image, label


@dataclass(frozen=True)
class _Columns:
    """How many columns a table has, and which are read."""

    count: int
    path: int
    label: int
    split: int | None

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
            raise UserError(f"{path}, line {number}: no label. {hint}{_FORMAT}")
        if words and is_image(words[1]) and not is_image(words[0]):
            raise UserError(
                f"{path}, line {number}: the label is before the path. Write the path first. "
                f"{_FORMAT}"
            )
        if words:
            yield number, "", *_require_path_and_label(words[0], words[1], path, number)


def _text_lines(file: Iterator[str], path: Path) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        if number == 1 and line.lstrip().startswith(("{", "[")):
            raise UserError(
                f"{path}: JSON, not a list. Annotations of COCO or iNaturalist are read by "
                f"--dataset=coco. {_FORMAT}"
            )
        if len(line) > _MAX_LINE or "\0" in line:
            raise UserError(f"{path}, line {number}: not a line of text. {_FORMAT}")
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
    unused = [name for i, name in enumerate(names) if name and i not in images + labels + splits]
    if unused:
        logging.warning("%s: the columns %s are not used", path, format_names(unused))
    return _Columns(len(row), images[0], labels[0], splits[0] if splits else None)


def _require_path_and_label(image: str, label: str, path: Path, line: int) -> tuple[str, str]:
    image, label = image.strip(), label.strip()
    if not image or not label:
        raise UserError(f"{path}, line {line}: no {'label' if image else 'path'}. {_FORMAT}")
    for cell in (image, label):
        if len(cell.splitlines()) > 1:
            raise UserError(
                f"{path}, line {line}: {cell!r} has a line break, which no path or class name can "
                "have. Replace it by a space."
            )
    name = canonical_class_name(label)
    if not name:
        raise UserError(f"{path}, line {line}: no label. {_FORMAT}")
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


# --- Labels


def _read_names(path: str) -> tuple[str, ...] | None:
    if not path:
        return None
    try:
        lines = Path(path).expanduser().read_text(encoding="utf-8-sig").splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: the names of classes cannot be read ({error}).") from error
    names = tuple(canonical_class_name(line.strip()) for line in lines)
    while names and not names[-1]:
        names = names[:-1]
    seen: dict[str, int] = {}
    for number, name in enumerate(names, start=1):
        if not name or name in seen:
            fault = f"{name!r} is already in line {seen[name]}" if name else "no name"
            raise UserError(f"{path}, line {number}: {fault}. Give one class name on each line.")
        seen[name] = number
    return names


def _learned_labels(
    lists: dict[str, Entries], names: tuple[str, ...] | None, numbers_are_indices: bool
) -> tuple[tuple[str, ...], bool]:
    """Class names of a training, and whether labels are indices into them."""
    numbers = numbers_are_indices and _are_numbers(lists, names)
    train = lists["train"]
    if names is None and numbers:
        _refuse_labels_from_one(lists)
        # There cannot be more classes than images; `_class_numbers` names the first label beyond.
        classes = min(1 + max(map(_whole_number, train.labels)), len(train.paths) + 1)
        names = tuple(map(str, range(max(classes, 1))))
    elif names is None:
        names = sort_classes(train.labels)
        warn_of_names_alike(names)
    return names, numbers


def _all_labels(lists: dict[str, Entries]) -> set[str]:
    return {label for entries in lists.values() for label in entries.labels}


def _known_labels(
    lists: dict[str, Entries],
    names: tuple[str, ...] | None,
    known: tuple[str, ...],
    numbers_are_indices: bool,
) -> tuple[tuple[str, ...], bool]:
    """Class names of images that a student is measured on, and whether labels are indices of them.

    Args:
        lists: The images.
        names: Of --class_names, if given.
        known: The student's classes.
        numbers_are_indices: Whether whole numbers may be indices.
    """
    numbers = numbers_are_indices and _are_numbers(lists, names)
    if names is not None:
        return names, numbers
    if numbers:
        are_indices = _are_indices(lists, known)
        if are_indices:
            _warn_of_labels_from_one(lists, known)
        return known, are_indices
    return sort_classes(_all_labels(lists)), False


def _are_indices(lists: dict[str, Entries], known: tuple[str, ...]) -> bool:
    """Whether whole numbers are indices of a student's classes; if not, they are their names.

    Raises:
        UserError: If they may be either, and a label would be another class.
    """
    first = next(iter(lists.values()))
    labels = _all_labels(lists)
    if not labels.issubset(known):
        return True
    index = {name: i for i, name in enumerate(known)}
    other = [label for label in labels if _whole_number(label) != index[label]]
    if other and all(0 <= _whole_number(label) < len(known) for label in labels):
        label = min(other)
        raise UserError(
            f"{first.path}: the label {label!r} is the name of a class of the student, and the "
            f"index of its class {known[_whole_number(label)]!r}. If labels are indices, give the "
            "student's classes in their order as --class_names; if they are names, sort the images "
            "into folders of these names, and give --dataset=folder."
        )
    return not other


def _warn_of_labels_from_one(lists: dict[str, Entries], known: tuple[str, ...]) -> None:
    """Tells how indices without a 0 are read: if they begin at 1, each is taken for the next class.

    Where classes are named as the labels are written, there is no doubt.
    """
    labels = _all_labels(lists)
    numbers = {_whole_number(label) for label in labels}
    if 0 in numbers or not all(0 < number < len(known) for number in numbers):
        return
    if all(known[number] == str(number) for number in numbers):
        return
    first = next(iter(lists.values()))
    logging.warning(
        "%s: no label is 0, and label %d is taken for the class %r; if labels begin at 1, "
        "subtract 1",
        first.path,
        min(numbers),
        known[min(numbers)],
    )


def _subsets_of_lists(
    lists: dict[str, Entries], names: tuple[str, ...], numbers: bool, measured: bool
) -> dict[str, LabelledImages]:
    """The labelled images of each list; for a training every class needs some."""
    index = {name: i for i, name in enumerate(names)}
    remedy = "add the class to the training list and to --class_names, if given"
    if measured:
        remedy = "subtract 1 from every label if they begin at 1" if numbers else (
            "add the class to --class_names"
        )  # fmt: skip
    subsets = {
        subset: LabelledImages(
            tuple(entries.paths), _class_numbers(entries, names, index, numbers, remedy)
        )
        for subset, entries in lists.items()
    }
    if not measured:
        require_every_class(subsets["train"].labels, names, lists["train"].path)
        _warn_of_missing_classes(lists, subsets, names)
    return subsets


def _refuse_labels_from_one(lists: dict[str, Entries]) -> None:
    if min(_whole_number(label) for each in lists.values() for label in each.labels) == 1:
        raise UserError(
            f"{lists['train'].path}: the labels begin at 1, and class indices at 0. Subtract 1 "
            "from every label."
        )


def _are_numbers(lists: dict[str, Entries], names: tuple[str, ...] | None) -> bool:
    """Whether labels are class indices.

    Raises:
        UserError: If all but missing values and fractions are whole numbers.
    """
    others: dict[str, Entries] = {}
    numbers = 0
    for entries in lists.values():
        odd = [label for label in entries.labels if not _NUMBER.fullmatch(label)]
        numbers += len(entries.labels) - len(odd)
        others |= dict.fromkeys(odd, entries)
    if not others or not numbers:
        return not others
    if names is None and all(map(_NO_CLASS.fullmatch, others)):
        label, entries = next(iter(others.items()))
        first = entries.label_codes.index(entries.labels.index(label))
        raise UserError(
            f"{entries.location(first)}: the label {label!r} is no whole number, as the others "
            "are. Correct it, or give class names for all images."
        )
    logging.warning(
        "%d of the different labels are whole numbers, but not %s: all labels are class names",
        numbers,
        format_names(others),
    )
    return False


def _whole_number(label: str) -> int:
    """The value of "7" or "7.0"; of a number of too many digits, one beyond any class index."""
    digits = label.partition(".")[0]
    return int(digits) if len(digits) <= _MAX_DIGITS else 10**_MAX_DIGITS


def _class_numbers(
    entries: Entries, names: tuple[str, ...], index: dict[str, int], numbers: bool, remedy: str
) -> np.ndarray:
    """Class indices, int32 [N]."""
    table = np.empty(len(entries.labels), np.int32)
    for code, label in enumerate(entries.labels):
        value = _whole_number(label) if numbers else index.get(label, -1)
        if not 0 <= value < len(names):
            allowed = f"from 0 to {len(names) - 1}" if numbers else f"among {format_names(names)}"
            first = entries.label_codes.index(code)
            raise UserError(
                f"{entries.location(first)}: the label {label!r} is not {allowed}. Correct the "
                f"label, or {remedy}."
            )
        table[code] = value
    return table[np.frombuffer(entries.label_codes, np.int32)]


def _warn_of_missing_classes(
    lists: dict[str, Entries], subsets: dict[str, LabelledImages], names: tuple[str, ...]
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


def _refuse_shared_images(lists: dict[str, Entries]) -> None:
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


def _images(config: SourceConfig, lists: dict[str, Entries]) -> FileTree:
    """The listed images as a tree.

    A folder is not walked, which would be slow for millions of files. The names in an archive are
    known, so a missing one is an error at once.
    """
    root = Path(config.data_dir).expanduser()
    if root.exists() and not root.is_dir():
        tree = open_tree(root, scratch=config.scratch, encoding=config.archive_encoding)
        try:
            return _tree_of_the_lists(tree, lists)
        except BaseException:
            tree.close()
            raise
    if not root.is_dir():
        raise UserError(f"{root} does not exist. Give the folder or archive that lists refer to.")
    known = frozenset(path for entries in lists.values() for path in entries.paths)

    def path_of(name: str) -> Path:
        if name not in known:
            raise KeyError(name)
        return find_on_disk(root, name)

    return FileTree(
        str(root),
        (),
        frozenset(),
        lambda name: read_file(path_of(name)),
        lambda name: file_change_token(path_of(name)),
        lambda: None,
    )


def _tree_of_the_lists(tree: FileTree, lists: dict[str, Entries]) -> FileTree:
    """An archive with the names that the lists use: as packed, or below its one top folder."""
    packed = frozenset(tree.files)
    if all(path in packed for entries in lists.values() for path in entries.paths):
        return tree
    inside = below(tree, wrapping_folder(tree))
    unpacked = frozenset(inside.files)
    # If neither fits, the names that fit more of the first list are those to tell about.
    some = next(iter(lists.values())).paths
    if sum(path in unpacked for path in some) >= sum(path in packed for path in some):
        tree, packed = inside, unpacked
    for entries in lists.values():
        missing = [path for path in entries.paths if path not in packed]
        if missing:
            first = entries.paths.index(missing[0])
            hint = _with_extension(missing[0], packed.__contains__)
            raise UserError(
                f"{entries.location(first)}: {tree.path} has no {missing[0]!r} "
                f"(missing images of this list: {len(missing)}). "
                + (f"It has {hint!r}: write" if hint else "Give the archive of the list.")
                + (" paths with their extensions." if hint else "")
            )
    return tree


def _check_first_names(tree: FileTree, lists: dict[str, Entries]) -> None:
    """Tells at once of a folder's list whose paths are ids, or of another folder."""
    if tree.files:
        return
    root = Path(tree.path)

    def exists(name: str) -> bool:
        return os.path.exists(find_on_disk(root, name))

    for entries in lists.values():
        for i, path in enumerate(entries.paths[:2]):
            if is_image(path) or exists(path):
                continue
            if hint := _with_extension(path, exists):
                raise UserError(
                    f"{entries.location(i)}: {tree.path} has no {path!r}, but {hint!r}. Write "
                    "paths with their extensions."
                )
            if i == 0 and len(entries.paths) > 1 and (
                exists(entries.paths[1]) or _with_extension(entries.paths[1], exists)
            ):  # fmt: skip
                raise _unknown_header(entries)
        # Splits can be drawn where the images are not, in a folder of lists alone.
        if not any(map(exists, entries.paths[:_FIRST_IMAGES])) and _holds_images(root):
            raise _missing_images(entries, root)


def _holds_images(root: Path) -> bool:
    """Whether a folder has images or folders, which may hold some."""
    with os.scandir(root) as found:
        return any(is_image(entry.name) or entry.is_dir() for entry in found)


def _missing_images(entries: Entries, root: Path) -> UserError:
    """None of the first images of a list is in the folder."""
    first = entries.paths[0]
    more = min(len(entries.paths), _FIRST_IMAGES) - 1
    nor = f", nor the next {more} images of the list" if more else ""
    hint = "Give as --data_dir the folder that the paths are relative to."
    for suffix in (PurePosixPath(first).suffix.lower(), PurePosixPath(first).suffix.upper()):
        other = str(PurePosixPath(first).with_suffix(suffix))
        if find_on_disk(root, other).exists():
            hint = f"It has {other!r}: write extensions as the files have them."
    if (root.resolve().parent / first).exists():
        hint = f"Give --data_dir={root.parent}, which has it."
    return UserError(f"{entries.location(0)}: {root} has no {first!r}{nor}. {hint}")


def _with_extension(path: str, exists: Callable[[str], bool]) -> str:
    """The image that a path without extension may stand for, or ""."""
    if is_image(path):
        return ""
    names = (path + extension for extension in EXTENSIONS)
    return next((name for name in names if exists(name)), "")

"""Labels of lists of images: whether they are class indices or class names, and of what classes."""

import re
from pathlib import Path

import numpy as np
from absl import logging

from candle_tf.data.sources.class_names import canonical_class_name, warn_of_names_alike
from candle_tf.data.sources.list_entries import Entries
from candle_tf.data.sources.source import (
    LabelledImages,
    format_names,
    require_every_class,
    sort_classes,
)
from candle_tf.errors import UserError

# Tables that were joined or had a gap have 1.0 for 1.
_NUMBER = re.compile(r"[+-]?[0-9]+(\.0*)?")
# What tables have for a missing number, and numbers that are no class index.
_NO_CLASS = re.compile(r"nan|null|none|n/a|<na>|[+-]?[0-9]*\.[0-9]+(e[+-]?[0-9]+)?", re.IGNORECASE)
# Longer ones are larger than any class index.
_MAX_DIGITS = 12
# Of labels that may be indices or names: what they are names of, and what to do.
_SORT_INTO_FOLDERS = (
    "If labels are indices, sort the images into folders of the names of these classes; if they "
    "are names, into folders of these names; and give --dataset=folder."
)
_IN_CLASS_NAMES = "a class in --class_names"
_WRITE_NO_NUMBERS = (
    "If labels are names, write names that are no numbers, such as 'class 1', in the list and in "
    "--class_names; if they are indices, write such names in --class_names alone."
)


def read_class_names(path: str) -> tuple[str, ...] | None:
    """The class names of a file with one on each line; None without a path.

    Raises:
        UserError: If it cannot be read, or a name is empty or there twice; names the line.
    """
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


def training_labels(
    lists: dict[str, Entries], names: tuple[str, ...] | None, numbers_are_indices: bool
) -> tuple[tuple[str, ...], bool]:
    """Class names of a training, and whether labels are indices into them.

    Args:
        lists: The images; "train" among them.
        names: Of --class_names, if given.
        numbers_are_indices: Whether whole numbers may be indices.

    Raises:
        UserError: If indices begin at 1, labels are neither all indices nor all names, or they may
            be either and would be different classes.
    """
    numbers = numbers_are_indices and _are_numbers(lists, names)
    train = lists["train"]
    if names is not None:
        return names, numbers and _are_indices(lists, names, _IN_CLASS_NAMES, _WRITE_NO_NUMBERS)
    if numbers:
        _refuse_labels_from_one(lists)
        # There cannot be more classes than images; `_class_numbers` names the first label beyond.
        classes = min(1 + max(map(_whole_number, train.labels)), len(train.paths) + 1)
        names = tuple(map(str, range(max(classes, 1))))
    else:
        names = sort_classes(train.labels)
        warn_of_names_alike(names)
    return names, numbers


def _all_labels(lists: dict[str, Entries]) -> set[str]:
    return {label for entries in lists.values() for label in entries.labels}


def measured_labels(
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

    Raises:
        UserError: If whole numbers may be names or indices, and would be different classes.
    """
    numbers = numbers_are_indices and _are_numbers(lists, names)
    if names is not None:
        return names, numbers and _are_indices(lists, names, _IN_CLASS_NAMES, _WRITE_NO_NUMBERS)
    if numbers:
        are_indices = _are_indices(lists, known, "a class of the student", _SORT_INTO_FOLDERS)
        if are_indices:
            _warn_of_labels_from_one(lists, known)
        return known, are_indices
    return sort_classes(_all_labels(lists)), False


def _are_indices(lists: dict[str, Entries], known: tuple[str, ...], what: str, remedy: str) -> bool:
    """Whether whole numbers are indices of known classes; if not, they are their names.

    Args:
        lists: The images.
        known: Names of the classes.
        what: What these are, for the message.
        remedy: What to do where numbers may be either.

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
            f"{first.path}: the label {label!r} is the name of {what}, and the index of its class "
            f"{known[_whole_number(label)]!r}. {remedy}"
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


def subsets_of_lists(
    lists: dict[str, Entries], names: tuple[str, ...], numbers: bool, measured: bool
) -> dict[str, LabelledImages]:
    """The labelled images of each list.

    Args:
        lists: The entries of each subset.
        names: Class names.
        numbers: Whether labels are indices of `names`.
        measured: Whether images are only measured; if not, every class needs training images.

    Raises:
        UserError: If a label is no class, or a class has no training images.
    """
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

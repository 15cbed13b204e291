"""Images with annotations in COCO's JSON, as COCO, iNaturalist and many labelling tools write it.

    open_source("coco", "train_val2018.tar", train_list="train2018.json",
                validation_list="val2018.json")

An annotation file has "images" (id, file_name), "categories" (id, name) and "annotations"
(image_id, category_id). Each image needs one class: this is classification, not detection. Names of
categories are names of classes, also where they are numbers; categories of one name are one class.
"""

import json
from array import array
from pathlib import Path
from typing import Any

from absl import logging

from candle_tf.data.sources.class_names import canonical_class_name
from candle_tf.data.sources.list_entries import Entries, relative_path
from candle_tf.data.sources.lists import list_source
from candle_tf.data.sources.source import Source, SourceConfig, find_repeats, format_names
from candle_tf.errors import UserError
from candle_tf.files import parse_json

_FORMAT = (
    'Expected one JSON object with "images" (each with id and file_name), "annotations" (each with '
    'image_id and category_id) and "categories" (each with id and name).'
)
_UNIT = "annotated image"


def open_coco(name: str, config: SourceConfig) -> Source:
    """Opens images that are annotated in files.

    Raises:
        UserError: If a file is missing or wrong, or an image has several categories.
    """
    for flag in ("data_dir", "train_list"):
        if not getattr(config, flag):
            raise UserError(f"The data set {name!r} needs --{flag}. {_FORMAT}")
    given = {
        "train": config.train_list,
        "test": config.test_list,
        "validation": config.validation_list,
    }
    lists = {subset: _read(Path(path).expanduser()) for subset, path in given.items() if path}
    return list_source(name, config, lists, numbers_are_indices=False)


def _read(path: Path) -> Entries:
    try:
        content = parse_json(path.read_bytes())
        files = _by_id(path, "images", content["images"], "file_name")
        names = _by_id(path, "categories", content["categories"], "name")
        pairs = [(entry["image_id"], entry["category_id"]) for entry in content["annotations"]]
        return _entries(path, files, names, pairs)
    except OSError as error:
        raise UserError(
            f"{path}: the annotations cannot be read ({error.strerror or error})."
        ) from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: no annotations of COCO ({type(error).__name__}: {error}). {_FORMAT}"
        ) from error


def _by_id(path: Path, part: str, entries: list[Any], field: str) -> dict[Any, str]:
    """A field of each image or category, by its id."""
    found: dict[Any, str] = {}
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry[field], str | int) or isinstance(entry[field], bool):
            raise UserError(
                f"{path}, entry {number} of {part!r}: {field} is {json.dumps(entry[field])}, which "
                "is no text. Correct it, or remove the entry and its annotations."
            )
        value = str(entry[field])
        first = found.setdefault(entry["id"], value)
        if first != value:
            raise UserError(
                f"{path}, entry {number} of {part!r}: {value!r} has the id {entry['id']!r}, which "
                f"{first!r} has already. Give each an id of its own."
            )
    return found


def _class_of_each(path: Path, names: dict[Any, str]) -> dict[Any, str]:
    """The class of each category; those of one canonical name are one class."""
    classes = {category: canonical_class_name(name) for category, name in names.items()}
    alike: dict[str, list[str]] = {}
    for category, label in classes.items():
        if not label:
            raise UserError(
                f"{path}: the category {category!r} has no name that can be seen. Give it one."
            )
        alike.setdefault(label, []).append(str(category))
    for label, ids in alike.items():
        if len(ids) > 1:
            logging.warning(
                "%s: the categories with the ids %s are one class, %r",
                path,
                format_names(ids),
                label,
            )
    return classes


def _entries(
    path: Path, files: dict[Any, str], names: dict[Any, str], pairs: list[tuple[Any, Any]]
) -> Entries:
    """One entry per annotated image, in the order of the annotations."""
    for image, category in pairs:
        if image not in files or category not in names:
            missing = f"image {image!r}" if image not in files else f"category {category!r}"
            raise UserError(f"{path}: an annotation has the {missing}, which the file lacks.")
    classes = _class_of_each(path, {category: names[category] for _, category in pairs})
    labelled: dict[Any, str] = {}
    several = {
        image
        for image, category in pairs
        if labelled.setdefault(image, classes[category]) != classes[category]
    }
    if several:
        raise UserError(
            f"{path}: {len(several)} of {len(labelled)} images have several categories, e.g. "
            f"{files[min(several, key=str)]!r}. An image can have one class only: crop the "
            "objects, or leave such images out."
        )
    if not labelled:
        raise UserError(f"{path}: no image has an annotation. {_FORMAT}")
    if len(labelled) < len(files):
        logging.warning(
            "%s: %d of %d images have no annotation: skipped",
            path,
            len(files) - len(labelled),
            len(files),
        )
    labels = list(dict.fromkeys(labelled.values()))
    codes = {label: code for code, label in enumerate(labels)}
    lines = range(1, len(labelled) + 1)
    paths = [
        relative_path(files[image], f"{path}, {_UNIT} {line}")
        for line, image in zip(lines, labelled, strict=True)
    ]
    if twice := find_repeats(paths):
        raise UserError(f"{path}: two images have the file_name {twice[0]!r}. Remove one of them.")
    return Entries(
        str(path),
        paths,
        array("i", map(codes.__getitem__, labelled.values())),
        array("L", lines),
        labels,
        _UNIT,
    )

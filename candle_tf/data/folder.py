"""Pictures in folders named after their classes, on disk or in a ZIP or TAR.

With parts:     train/<class>/<picture>, test/<class>/<picture>, and val/<class>/<picture>
Without parts:  <class>/<picture>; a test part is drawn from it later

The validation part may be called val, valid or validation. Where there is one but no test part, it
is the test part, as in ImageNet's own folders.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from candle_tf.data.archives import PARTS, open_tree
from candle_tf.data.dataset import Partition, Place, Source, listing
from candle_tf.data.tree import EXTENSIONS, Tree, is_picture, tree_source
from candle_tf.errors import UserError

_LAYOUT = (
    "Expected, in a folder, a ZIP or a TAR file, train/<class>/<picture> and "
    "test/<class>/<picture>, or <class>/<picture>, with pictures named "
    f"*{', *'.join(EXTENSIONS)}."
)
_VALIDATION = ("val", "valid", "validation")


def open_folder(name: str, place: Place) -> Source:
    """Opens a folder, or an archive of one.

    Raises:
        UserError: If there is none, or it is not laid out as expected.
    """
    if not place.data_dir:
        raise UserError(f"The data set {name!r} needs the path of the pictures. {_LAYOUT}")
    tree = open_tree(Path(place.data_dir).expanduser(), _LAYOUT, place.scratch)
    try:
        return _arrange(name, tree)
    except BaseException:
        tree.close()
        raise


def _arrange(name: str, tree: Tree) -> Source:
    """Finds parts and classes in a tree's names; says what it passes over."""
    pictures = [file for file in tree.files if is_picture(file)]
    if len(pictures) < len(tree.files):
        logging.warning("%s: %s passed over", tree.place, _other_files(tree))
    if not pictures:
        raise UserError(f"{tree.place}: no pictures found, but {_found(tree)}. {_LAYOUT}")
    prefixes = _part_prefixes(tree, pictures)
    by_class = _classes(tree, pictures, prefixes["train"])
    if len(by_class) < 2:
        raise UserError(
            f"{tree.place}: {len(by_class)} class folders with pictures where at least 2 are "
            f"needed; found {_found(tree)}. {_LAYOUT}"
        )
    class_names = tuple(sorted(by_class))
    parts = {"train": _partition(by_class, class_names)}
    for part in ("test", "validation"):
        if part in prefixes:
            members = _classes(tree, pictures, prefixes[part])
            _compare_classes(tree, prefixes[part].rstrip("/"), class_names, members)
            parts[part] = _partition(members, class_names)
    outside = len(pictures) - sum(len(part.ids) for part in parts.values())
    if outside:
        inside = {image_id for part in parts.values() for image_id in part.ids}
        logging.warning(
            "%s: %d pictures outside the class folders passed over, e.g. %s",
            tree.place,
            outside,
            min(picture for picture in pictures if picture not in inside),
        )

    return tree_source(name, class_names, parts, tree)


def _part_prefixes(tree: Tree, pictures: list[str]) -> dict[str, str]:
    """Prefix of each part there is; {"train": ""} for one level of classes."""
    tops = {name.partition("/")[0] for name in tree.folders}
    holding = {name.partition("/")[0] for name in pictures if "/" in name}
    # A class may be called "train" as well, but does not hold folders of pictures then.
    nested = {name.partition("/")[0] for name in pictures if name.count("/") > 1}
    parts = {top for top in nested if top.casefold() in PARTS}
    validation = sorted(parts.intersection(_VALIDATION))
    if len(validation) > 1:
        raise UserError(
            f"{tree.place}: {listing(validation)} are all validation parts. Keep one of them."
        )
    if {"train", "test"} <= tops and "train" in parts:
        own = {"validation": f"{validation[0]}/"} if validation else {}
        return {"train": "train/", "test": "test/"} | own
    if "train" in parts and validation and holding == {"train", *validation}:
        logging.info("%s: no test part, so %r is tested on", tree.place, validation[0])
        return {"train": "train/", "test": f"{validation[0]}/"}
    if "train" in parts and holding == {"train"}:
        return {"train": "train/"}
    if parts:
        raise UserError(
            f"{tree.place}: folders {listing(parts)} look like parts of a data set, but are not "
            f"'train' and 'test'; found {_found(tree)}. {_LAYOUT}"
        )
    return {"train": ""}


def _classes(tree: Tree, pictures: list[str], prefix: str) -> dict[str, list[str]]:
    """Ids by class below a prefix; refuses class folders without pictures."""
    depth = prefix.count("/")
    by_class: dict[str, list[str]] = {
        name.removeprefix(prefix): []
        for name in tree.folders
        if name.startswith(prefix) and name.count("/") == depth
    }
    for name in pictures:
        class_name, slash, _ = name.removeprefix(prefix).partition("/")
        if name.startswith(prefix) and slash:
            by_class[class_name].append(name)
    empty = [prefix + class_name for class_name, ids in by_class.items() if not ids]
    if empty:
        raise UserError(
            f"{tree.place}: no pictures in the class folder {listing(empty)}. "
            "Put pictures in, or remove the folder."
        )
    return by_class


def _compare_classes(
    tree: Tree, part: str, class_names: tuple[str, ...], members: dict[str, list[str]]
) -> None:
    unknown = set(members).difference(class_names)
    if unknown:
        raise UserError(
            f"{tree.place}: {part} has the class {listing(unknown)}, which train lacks. "
            f"Add it to train, or remove it from {part}."
        )
    if not members:
        raise UserError(
            f"{tree.place}: {part} holds no class folders. Fill or remove it. {_LAYOUT}"
        )
    lacking = set(class_names).difference(members)
    if lacking:
        logging.warning(
            "%s: %s lacks the class %s: it is learned, but not measured there",
            tree.place,
            part,
            listing(lacking),
        )


def _partition(by_class: dict[str, list[str]], class_names: tuple[str, ...]) -> Partition:
    """Ids by class, then by name, so that no order of a file system shows."""
    ids: list[str] = []
    sizes = []
    for class_name in class_names:
        members = sorted(by_class.get(class_name, []))
        ids += members
        sizes.append(len(members))
    return Partition(tuple(ids), np.repeat(np.arange(len(class_names), dtype=np.int32), sizes))


def _other_files(tree: Tree) -> str:
    """E.g. "3 files that are not pictures (2 .txt, 1 .csv)"."""
    kinds = Counter(_suffixes(name for name in tree.files if not is_picture(name)))
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    return f"{kinds.total()} files that are not pictures ({shown})" if kinds else "no other files"


def _suffixes(names: Iterable[str]) -> list[str]:
    return [PurePosixPath(name).suffix.lower() or "without extension" for name in names]


def _found(tree: Tree) -> str:
    tops = {name for name in tree.folders if "/" not in name}
    pictures = sum(map(is_picture, tree.files))
    return (
        f"{f'folders {listing(tops)}' if tops else 'no folders'}, {pictures} pictures, "
        f"{_other_files(tree)}"
    )

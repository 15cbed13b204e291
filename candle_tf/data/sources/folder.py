"""Images in folders named after their classes, on disk or in a ZIP or TAR.

With parts:     train/<class>/<image>, test/<class>/<image>, and val/<class>/<image>
Without parts:  <class>/<image>; a test part is drawn from it later

The validation part may be called val, valid or validation. Where there is one but no test part, it
is the test part, as in ImageNet's own folders.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from candle_tf.data.sources.archives import PARTS, open_tree
from candle_tf.data.sources.file_tree import EXTENSIONS, Tree, is_image, tree_source
from candle_tf.data.sources.source import Partition, Place, Source, listing
from candle_tf.errors import UserError

_LAYOUT = (
    "Expected, in a folder, a ZIP or a TAR file, train/<class>/<image> and "
    "test/<class>/<image>, or <class>/<image>, with images named "
    f"*{', *'.join(EXTENSIONS)}."
)
_VALIDATION = ("val", "valid", "validation")


def open_folder(name: str, place: Place) -> Source:
    """Opens a folder, or an archive of one.

    Raises:
        UserError: If there is none, or it is not laid out as expected.
    """
    if not place.data_dir:
        raise UserError(f"The data set {name!r} needs the path of the images. {_LAYOUT}")
    tree = open_tree(Path(place.data_dir).expanduser(), _LAYOUT, place.scratch)
    try:
        return _arrange(name, tree)
    except BaseException:
        tree.close()
        raise


def _arrange(name: str, tree: Tree) -> Source:
    """Finds parts and classes in a tree's names; says what it passes over."""
    images = [file for file in tree.files if is_image(file)]
    if len(images) < len(tree.files):
        logging.warning("%s: %s passed over", tree.place, _other_files(tree))
    if not images:
        raise UserError(f"{tree.place}: no images found, but {_found(tree)}. {_LAYOUT}")
    prefixes = _part_prefixes(tree, images)
    by_class = _classes(tree, images, prefixes["train"])
    if len(by_class) < 2:
        raise UserError(
            f"{tree.place}: {len(by_class)} class folders with images where at least 2 are "
            f"needed; found {_found(tree)}. {_LAYOUT}"
        )
    class_names = tuple(sorted(by_class))
    parts = {"train": _partition(by_class, class_names)}
    for part in ("test", "validation"):
        if part in prefixes:
            members = _classes(tree, images, prefixes[part])
            _compare_classes(tree, prefixes[part].rstrip("/"), class_names, members)
            parts[part] = _partition(members, class_names)
    outside = len(images) - sum(len(part.ids) for part in parts.values())
    if outside:
        inside = {image_id for part in parts.values() for image_id in part.ids}
        logging.warning(
            "%s: %d images outside the class folders passed over, e.g. %s",
            tree.place,
            outside,
            min(image for image in images if image not in inside),
        )

    return tree_source(name, class_names, parts, tree)


def _part_prefixes(tree: Tree, images: list[str]) -> dict[str, str]:
    """Prefix of each part there is; {"train": ""} for one level of classes."""
    tops = {name.partition("/")[0] for name in tree.folders}
    holding = {name.partition("/")[0] for name in images if "/" in name}
    # A class may be called "train" as well, but does not hold folders of images then.
    nested = {name.partition("/")[0] for name in images if name.count("/") > 1}
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


def _classes(tree: Tree, images: list[str], prefix: str) -> dict[str, list[str]]:
    """Ids by class below a prefix; refuses class folders without images."""
    depth = prefix.count("/")
    by_class: dict[str, list[str]] = {
        name.removeprefix(prefix): []
        for name in tree.folders
        if name.startswith(prefix) and name.count("/") == depth
    }
    for name in images:
        class_name, slash, _ = name.removeprefix(prefix).partition("/")
        if name.startswith(prefix) and slash:
            by_class[class_name].append(name)
    empty = [prefix + class_name for class_name, ids in by_class.items() if not ids]
    if empty:
        raise UserError(
            f"{tree.place}: no images in the class folder {listing(empty)}. "
            "Put images in, or remove the folder."
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
    """E.g. "3 files that are not images (2 .txt, 1 .csv)"."""
    kinds = Counter(_suffixes(name for name in tree.files if not is_image(name)))
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    return f"{kinds.total()} files that are not images ({shown})" if kinds else "no other files"


def _suffixes(names: Iterable[str]) -> list[str]:
    return [PurePosixPath(name).suffix.lower() or "without extension" for name in names]


def _found(tree: Tree) -> str:
    tops = {name for name in tree.folders if "/" not in name}
    images = sum(map(is_image, tree.files))
    return (
        f"{f'folders {listing(tops)}' if tops else 'no folders'}, {images} images, "
        f"{_other_files(tree)}"
    )

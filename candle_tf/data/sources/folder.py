"""Images in folders named after their classes, on disk or in a ZIP or TAR.

With subsets:     train/<class>/<image>, test/<class>/<image>, and val/<class>/<image>
Without subsets:  <class>/<image>; a test subset is drawn from it later

Subsets have any of their usual names, in any case (`candle_tf.data.sources.subset_names`). One
folder around everything is ignored, and so is one around a subset's classes
(seg_train/seg_train/<class>). If there is a validation folder but no test folder, it becomes the
test subset, as for ImageNet. Other layouts are refused: read as classes, they would give a wrong
data set.
"""

import itertools
from pathlib import Path

import numpy as np
from absl import logging

from candle_tf.data.sources.archives import open_tree
from candle_tf.data.sources.class_names import canonical_class_name, warn_of_names_alike
from candle_tf.data.sources.file_tree import (
    EXTENSIONS,
    FileTree,
    below,
    is_image,
    tree_source,
    wrapping_folder,
)
from candle_tf.data.sources.folder_copies import refuse_copies
from candle_tf.data.sources.folder_parts import (
    KINDS_OF_FILES,
    refuse_masks,
    refuse_subsets_within_classes,
)
from candle_tf.data.sources.other_files import describe_other_files, warn_of_other_files
from candle_tf.data.sources.source import (
    LabelledImages,
    Source,
    SourceConfig,
    format_names,
    sort_classes,
)
from candle_tf.data.sources.subset_names import subset_names
from candle_tf.errors import UserError

_LAYOUT = (
    "Expected, in a folder, a ZIP or a TAR file, train/<class>/<image> and "
    "test/<class>/<image>, or <class>/<image>, with images named "
    f"*{', *'.join(EXTENSIONS)}."
)
_LABEL_FILES = (
    "If the labels are in file names or in a table, write lists and give them by --dataset=list "
    "--train_list=..."
)


def open_folder(name: str, config: SourceConfig) -> Source:
    """Opens a folder, or an archive of one.

    Raises:
        UserError: If it does not exist, or is not laid out as expected.
    """
    if not config.data_dir:
        raise UserError(f"The data set {name!r} needs the path of the images. {_LAYOUT}")
    path = Path(config.data_dir).expanduser()
    tree = open_tree(path, _LAYOUT, config.scratch, config.archive_encoding)
    known = frozenset(config.known_classes)
    # Of the whole tree: a wrapping folder has files beside it, too.
    warn_of_other_files(tree)
    try:
        return _find_subsets(name, _without_wrapping_folder(tree, known), known)
    except BaseException:
        tree.close()
        raise


def _find_subsets(name: str, tree: FileTree, known: frozenset[str]) -> Source:
    """Finds subsets and classes in a tree; logs which images it skips.

    Args:
        name: Of the data set.
        tree: Of all files.
        known: Classes of the student that is measured on them; empty for a training.
    """
    images = [file for file in tree.files if is_image(file)]
    if not images:
        raise UserError(f"{tree.path}: no images found, but {_describe_contents(tree)}. {_LAYOUT}")
    prefixes = _subset_prefixes(tree, images, known)
    members = {
        subset: _classes(tree, images, prefix, bool(known)) for subset, prefix in prefixes.items()
    }
    class_names = (
        _classes_to_measure(tree, prefixes, members, known)
        if known
        else _classes_to_learn(tree, prefixes, members)
    )
    warn_of_names_alike(class_names)
    subsets = {name: _labelled_images(each, class_names) for name, each in members.items()}
    outside = len(images) - sum(len(subset.ids) for subset in subsets.values())
    if outside:
        inside = {image_id for subset in subsets.values() for image_id in subset.ids}
        logging.warning(
            "%s: %d images outside the class folders skipped, e.g. %s",
            tree.path,
            outside,
            min(image for image in images if image not in inside),
        )

    return tree_source(name, class_names, subsets, tree)


def _classes_to_learn(
    tree: FileTree, prefixes: dict[str, str], members: dict[str, dict[str, list[str]]]
) -> tuple[str, ...]:
    """Class names of a training; the other subsets must have no other classes."""
    refuse_copies(tree, prefixes["train"], itertools.chain(*members["train"].values()))
    if len(members["train"]) < 2:
        raise UserError(
            f"{tree.path}: {len(members['train'])} class folders with images where at least 2 are "
            f"needed; found {_describe_contents(tree)}. {_LAYOUT}"
        )
    class_names = sort_classes(members["train"])
    for subset in ("test", "validation"):
        if subset in members:
            folder = prefixes[subset].rstrip("/")
            _refuse_empty_subset(
                tree, folder, members[subset], "; then images are held out of train"
            )
            _compare_classes(tree, folder, class_names, members[subset])
    return class_names


def _classes_to_measure(
    tree: FileTree,
    prefixes: dict[str, str],
    members: dict[str, dict[str, list[str]]],
    known: frozenset[str],
) -> tuple[str, ...]:
    """Class names of images that are only measured: of all class folders with images."""
    for subset, by_class in members.items():
        if not known.issuperset(by_class):
            refuse_copies(tree, prefixes[subset], itertools.chain(*by_class.values()))
        if prefixes[subset]:
            _refuse_empty_subset(tree, prefixes[subset].rstrip("/"), by_class)
    if not any(members.values()):
        raise UserError(
            f"{tree.path}: no class folders with images; found {_describe_contents(tree)}. "
            f"{_LAYOUT}"
        )
    return sort_classes({name for by_class in members.values() for name in by_class})


def _without_wrapping_folder(tree: FileTree, known: frozenset[str]) -> FileTree:
    """The tree below the folders that contain everything else, if there are such."""
    while top := wrapping_folder(tree) or _folder_beside_labels(tree):
        inside = {name.split("/")[1] for name in tree.folders if "/" in name}
        # "train" alone is a subset, unless it contains subsets itself.
        is_subset = subset_names([top[:-1]]) and len(set(subset_names(inside).values())) < 2
        # The one class of images that are measured; what is in it belongs to it.
        is_class = canonical_class_name(top[:-1]) in known and not known.issuperset(
            map(canonical_class_name, inside)
        )
        if not inside or is_subset or is_class:
            break
        tree = below(tree, top)
    return tree


def _folder_beside_labels(tree: FileTree) -> str:
    """images/train/<class>/... beside labels/ without an image: "images/"; else ""."""
    tops = {name.partition("/")[0] for name in tree.folders}
    holding = {name.partition("/")[0] for name in tree.files if is_image(name)}
    if len(holding) != 1 or not all(top.casefold() in KINDS_OF_FILES for top in tops):
        return ""
    (top,) = holding
    inside = {name.split("/")[1] for name in tree.folders if name.startswith(f"{top}/")}
    return f"{top}/" if top in tops and subset_names(inside) else ""


def _subset_prefixes(tree: FileTree, images: list[str], known: frozenset[str]) -> dict[str, str]:
    """Path prefix of each subset; {"train": ""} for one level of classes.

    Data that are only measured need no training subset, and several folders that are all named
    after known classes are no subsets.
    """
    tops = {name.partition("/")[0] for name in tree.folders}
    holding = {name.partition("/")[0] for name in images if "/" in name}
    # A class may be called "train" too, but then it has no folders of images.
    nested = {name.partition("/")[0] for name in images if name.count("/") > 1}
    are_classes = len(holding) > 1 and known.issuperset(holding)
    named = {} if are_classes else subset_names(tops)
    if not nested.intersection(named):
        _refuse_subsets_without_classes(tree, holding)
        refuse_subsets_within_classes(tree, images, _LAYOUT)
        return {"train": ""}
    folders = _folder_of_each_subset(tree, named, nested)
    # A training refuses other folders beside these below; a measurement leaves them out.
    alone = bool(known) or holding == set(folders.values())
    if "test" not in folders and "validation" in folders and alone:
        folders["test"] = folders.pop("validation")
        logging.info("%s: no test subset: %r becomes the test subset", tree.path, folders["test"])
    if known or ("train" in folders and ("test" in folders or holding == {folders["train"]})):
        return {subset: _class_level(tree, top) for subset, top in folders.items()}
    raise UserError(
        f"{tree.path}: folders {format_names(set(folders.values()))} look like subsets of a data "
        "set, but there is no training and test folder with class folders; found "
        f"{_describe_contents(tree)}. Rename or remove the other folders. {_LAYOUT}"
    )


def _folder_of_each_subset(
    tree: FileTree, named: dict[str, str], nested: set[str]
) -> dict[str, str]:
    """The top folder of each subset; one without class folders only if it is the test folder."""
    folders: dict[str, str] = {}
    for subset in ("train", "test", "validation"):
        found = [top for top, other in named.items() if other == subset and top in nested]
        if subset == "test" and not found:
            found = [top for top, other in named.items() if other == subset]
        if len(found) > 1:
            kind = {"train": "training"}.get(subset, subset)
            raise UserError(
                f"{tree.path}: {format_names(found)} are all {kind} folders. Keep one of them."
            )
        if found:
            folders[subset] = found[0]
    return folders


def _class_level(tree: FileTree, top: str) -> str:
    """Path prefix of a subset's class folders: below "seg_train/seg_train/", e.g."""
    prefix = f"{top}/"
    while True:
        inside = {
            name.removeprefix(prefix).partition("/")[0]
            for name in (*tree.folders, *filter(is_image, tree.files))
            if name.startswith(prefix)
        }
        if len(inside) != 1:
            return prefix
        (only,) = inside
        deeper = any(name.startswith(f"{prefix}{only}/") for name in tree.folders)
        is_same = subset_names([only]).get(only) == subset_names([top]).get(top) is not None
        if not deeper or not (only == top or is_same or only.casefold() in KINDS_OF_FILES):
            return prefix
        prefix += f"{only}/"


def _refuse_subsets_without_classes(tree: FileTree, holding: set[str]) -> None:
    named = subset_names(holding)
    if named and (len(set(named.values())) > 1 or set(named) == holding):
        raise UserError(
            f"{tree.path}: the folders {format_names(named)} are named after subsets, but contain "
            f"images where class folders are expected; found {_describe_contents(tree)}. Sort the "
            f"images into folders of their classes. {_LABEL_FILES} {_LAYOUT}"
        )


def _refuse_kinds_of_files(tree: FileTree, by_class: dict[str, list[str]]) -> None:
    if by_class and all(name.casefold() in KINDS_OF_FILES for name in by_class):
        raise UserError(
            f"{tree.path}: the folders {format_names(by_class)} are named after kinds of files, "
            "not after classes, as in data sets for segmentation or detection. Sort the images "
            f"into folders of their classes. {_LABEL_FILES} {_LAYOUT}"
        )


def _classes(
    tree: FileTree, images: list[str], prefix: str, measured: bool
) -> dict[str, list[str]]:
    """Ids by class below a prefix; class folders without images are errors, but to measure."""
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
    _refuse_kinds_of_files(tree, by_class)
    refuse_masks(tree, prefix, by_class)
    empty = [prefix + class_name for class_name, ids in by_class.items() if not ids]
    if empty and not measured:
        raise UserError(
            f"{tree.path}: no images in the class folder {format_names(empty)}. "
            "Put images in, or remove the folder."
        )
    return _merge_names_alike(tree, {name: ids for name, ids in by_class.items() if ids})


def _merge_names_alike(tree: FileTree, by_class: dict[str, list[str]]) -> dict[str, list[str]]:
    """The same by canonical names; folders of one canonical name are one class."""
    merged: dict[str, list[str]] = {}
    folders: dict[str, list[str]] = {}
    for folder, ids in by_class.items():
        name = canonical_class_name(folder)
        if not name:
            raise UserError(
                f"{tree.path}: the class folder {folder!r} has no name that can be seen. Rename it."
            )
        merged[name] = merged.get(name, []) + ids
        folders[name] = [*folders.get(name, []), folder]
    for name, alike in folders.items():
        if len(alike) > 1:
            logging.warning(
                "%s: the folders %s are one class, %r",
                tree.path,
                format_names(alike),
                name,
            )
    return merged


def _compare_classes(
    tree: FileTree, subset: str, class_names: tuple[str, ...], members: dict[str, list[str]]
) -> None:
    unknown = set(members).difference(class_names)
    if unknown:
        other_case = {name.casefold() for name in unknown}
        similar = [name for name in class_names if name.casefold() in other_case]
        has = f" (it has {format_names(similar)})" if similar else ""
        raise UserError(
            f"{tree.path}: {subset} has the class {format_names(unknown)}, which train lacks{has}. "
            f"Add it to train, or remove it from {subset}."
        )
    lacking = set(class_names).difference(members)
    if lacking:
        logging.warning(
            "%s: %s lacks the class %s: it is trained on, but not evaluated there",
            tree.path,
            subset,
            format_names(lacking),
        )


def _refuse_empty_subset(
    tree: FileTree, folder: str, by_class: dict[str, list[str]], without: str = ""
) -> None:
    """Refuses a subset without class folders; `without` says what follows from its removal."""
    if by_class:
        return
    images = sum(is_image(name) for name in tree.files if name.startswith(f"{folder}/"))
    remedy = "Fill or remove it."
    if images:
        remedy = (
            f"So its {images} images have no labels: sort them into folders of their classes, "
            f"or remove it{without}."
        )
    raise UserError(f"{tree.path}: {folder} holds no class folders. {remedy} {_LAYOUT}")


def _labelled_images(
    by_class: dict[str, list[str]], class_names: tuple[str, ...]
) -> LabelledImages:
    """Ids sorted by class, then by name, so that the order of the file system does not matter."""
    ids: list[str] = []
    sizes = []
    for class_name in class_names:
        members = sorted(by_class.get(class_name, []))
        ids += members
        sizes.append(len(members))
    return LabelledImages(tuple(ids), np.repeat(np.arange(len(class_names), dtype=np.int32), sizes))


def _describe_contents(tree: FileTree) -> str:
    tops = {name for name in tree.folders if "/" not in name}
    images = sum(map(is_image, tree.files))
    return (
        f"{f'folders {format_names(tops)}' if tops else 'no folders'}, {images} images, "
        f"{describe_other_files(tree.files)}"
    )

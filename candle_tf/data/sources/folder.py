"""Images in folders named after their classes, on disk or in a ZIP or TAR.

With subsets:     train/<class>/<image>, test/<class>/<image>, and val/<class>/<image>
Without subsets:  <class>/<image>; a test subset is drawn from it later

The validation folder may be called val, valid or validation. If there is one but no test folder, it
becomes the test subset, as for ImageNet.
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from candle_tf.data.sources.archives import SUBSET_FOLDERS, open_tree
from candle_tf.data.sources.file_tree import EXTENSIONS, FileTree, is_image, tree_source
from candle_tf.data.sources.source import LabelledImages, Source, SourceConfig, format_names
from candle_tf.errors import UserError

_LAYOUT = (
    "Expected, in a folder, a ZIP or a TAR file, train/<class>/<image> and "
    "test/<class>/<image>, or <class>/<image>, with images named "
    f"*{', *'.join(EXTENSIONS)}."
)
_VALIDATION = ("val", "valid", "validation")


def open_folder(name: str, config: SourceConfig) -> Source:
    """Opens a folder, or an archive of one.

    Raises:
        UserError: If it does not exist, or is not laid out as expected.
    """
    if not config.data_dir:
        raise UserError(f"The data set {name!r} needs the path of the images. {_LAYOUT}")
    tree = open_tree(Path(config.data_dir).expanduser(), _LAYOUT, config.scratch)
    try:
        return _find_subsets(name, tree)
    except BaseException:
        tree.close()
        raise


def _find_subsets(name: str, tree: FileTree) -> Source:
    """Finds subsets and classes in a tree; logs what it skips."""
    images = [file for file in tree.files if is_image(file)]
    if len(images) < len(tree.files):
        logging.warning("%s: %s skipped", tree.path, _other_files(tree))
    if not images:
        raise UserError(f"{tree.path}: no images found, but {_describe_contents(tree)}. {_LAYOUT}")
    prefixes = _subset_prefixes(tree, images)
    by_class = _classes(tree, images, prefixes["train"])
    if len(by_class) < 2:
        raise UserError(
            f"{tree.path}: {len(by_class)} class folders with images where at least 2 are "
            f"needed; found {_describe_contents(tree)}. {_LAYOUT}"
        )
    class_names = tuple(sorted(by_class))
    subsets = {"train": _labelled_images(by_class, class_names)}
    for subset in ("test", "validation"):
        if subset in prefixes:
            members = _classes(tree, images, prefixes[subset])
            _compare_classes(tree, prefixes[subset].rstrip("/"), class_names, members)
            subsets[subset] = _labelled_images(members, class_names)
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


def _subset_prefixes(tree: FileTree, images: list[str]) -> dict[str, str]:
    """Path prefix of each subset; {"train": ""} for one level of classes."""
    tops = {name.partition("/")[0] for name in tree.folders}
    holding = {name.partition("/")[0] for name in images if "/" in name}
    # A class may be called "train" too, but then it has no folders of images.
    nested = {name.partition("/")[0] for name in images if name.count("/") > 1}
    subsets = {top for top in nested if top.casefold() in SUBSET_FOLDERS}
    validation = sorted(subsets.intersection(_VALIDATION))
    if len(validation) > 1:
        raise UserError(
            f"{tree.path}: {format_names(validation)} are all validation folders. Keep one of them."
        )
    if {"train", "test"} <= tops and "train" in subsets:
        own = {"validation": f"{validation[0]}/"} if validation else {}
        return {"train": "train/", "test": "test/"} | own
    if "train" in subsets and validation and holding == {"train", *validation}:
        logging.info("%s: no test subset: %r becomes the test subset", tree.path, validation[0])
        return {"train": "train/", "test": f"{validation[0]}/"}
    if "train" in subsets and holding == {"train"}:
        return {"train": "train/"}
    if subsets:
        raise UserError(
            f"{tree.path}: folders {format_names(subsets)} look like subsets of a data set, but "
            f"are not 'train' and 'test'; found {_describe_contents(tree)}. {_LAYOUT}"
        )
    return {"train": ""}


def _classes(tree: FileTree, images: list[str], prefix: str) -> dict[str, list[str]]:
    """Ids by class below a prefix; an error for class folders without images."""
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
            f"{tree.path}: no images in the class folder {format_names(empty)}. "
            "Put images in, or remove the folder."
        )
    return by_class


def _compare_classes(
    tree: FileTree, subset: str, class_names: tuple[str, ...], members: dict[str, list[str]]
) -> None:
    unknown = set(members).difference(class_names)
    if unknown:
        raise UserError(
            f"{tree.path}: {subset} has the class {format_names(unknown)}, which train lacks. "
            f"Add it to train, or remove it from {subset}."
        )
    if not members:
        raise UserError(
            f"{tree.path}: {subset} holds no class folders. Fill or remove it. {_LAYOUT}"
        )
    lacking = set(class_names).difference(members)
    if lacking:
        logging.warning(
            "%s: %s lacks the class %s: it is trained on, but not evaluated there",
            tree.path,
            subset,
            format_names(lacking),
        )


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


def _other_files(tree: FileTree) -> str:
    """E.g. "3 files that are not images (2 .txt, 1 .csv)"."""
    kinds = Counter(_suffixes(name for name in tree.files if not is_image(name)))
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    return f"{kinds.total()} files that are not images ({shown})" if kinds else "no other files"


def _suffixes(names: Iterable[str]) -> list[str]:
    return [PurePosixPath(name).suffix.lower() or "without extension" for name in names]


def _describe_contents(tree: FileTree) -> str:
    tops = {name for name in tree.folders if "/" not in name}
    images = sum(map(is_image, tree.files))
    return (
        f"{f'folders {format_names(tops)}' if tops else 'no folders'}, {images} images, "
        f"{_other_files(tree)}"
    )

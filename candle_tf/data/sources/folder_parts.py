"""Folders within class folders that are no parts of the class: masks, and subsets.

    refuse_masks(tree, "train/", by_class)          # train/cat/images/1.jpg, train/cat/masks/1.png
    refuse_subsets_within_classes(tree, images, layout)     # cat/train/1.jpg, cat/test/2.jpg

All images below a class folder belong to the class, so masks and test images would be trained on.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from candle_tf.data.sources.file_tree import FileTree
from candle_tf.data.sources.source import format_names
from candle_tf.data.sources.subset_names import FILLERS, split_words, subset_names
from candle_tf.errors import UserError

_IMAGE_WORDS = frozenset({"image", "images", "img", "imgs", "jpegimages"})
_MASK_FOLDERS = frozenset(
    {"mask", "masks", "label", "labels", "annotation", "annotations", "segmentation",
     "segmentations", "groundtruth", "gt", "trimaps"}
)  # fmt: skip
_MASK_WORDS = _MASK_FOLDERS | {"trimap"}
# Folders that are named after kinds of files, as those of segmentation and detection.
KINDS_OF_FILES = (
    _IMAGE_WORDS
    | _MASK_FOLDERS
    | {"segmentationclass", "segmentationobject", "ground_truth", "xml", "json"}
)
# Of images of what has a mask or a label, or has none.
_STATES = frozenset({"with", "without", "no"})


def refuse_masks(tree: FileTree, prefix: str, by_class: Mapping[str, Iterable[str]]) -> None:
    """Refuses masks and labels beside the images of a class, which would be images of the class.

    Args:
        tree: Where the class folders are.
        prefix: Path of the folder that holds them, which ends with "/"; "" for the whole tree.
        by_class: Paths of the images of each class folder.

    Raises:
        UserError: If a class folder has a folder of masks beside one of images ("images" and
            "lung masks"), or beside images ("masks" alone, as "mask on" may be a part of a class).
    """
    found: dict[str, str] = {}  # folder of masks, and where the images are
    for name, ids in by_class.items():
        top = f"{prefix}{name}/"
        below = {image.removeprefix(top) for image in ids}
        folders = {path.partition("/")[0] for path in below if "/" in path}
        masks = {folder for folder in folders if _mask_words(folder)}
        beside = sorted(folder for folder in folders - masks if _IMAGE_WORDS & {*_words(folder)})
        if beside:
            found |= {top + folder: top + beside[0] for folder in masks}
        elif any("/" not in path for path in below):
            found |= {top + folder: top[:-1] for folder in masks if _is_all_masks(folder)}
    if found:
        example = min(found)
        raise UserError(
            f"{tree.path}: the folders {format_names(found)} are named after masks or labels, and "
            f"are in class folders beside images (those of {found[example]!r}): they would be "
            "read as images of the class. Remove them from the data set; if they are images "
            "of the class, give them other names."
        )


def refuse_subsets_within_classes(tree: FileTree, images: Sequence[str], layout: str) -> None:
    """Refuses <class>/train/<image> and <class>/test/<image>: test images would be trained on.

    Args:
        tree: Whose top folders are classes.
        images: Paths of its images.
        layout: What is expected, for the message.

    Raises:
        UserError: If a class folder, or a folder such as "images" in it, has folders of two
            subsets; or if the folders of all classes are named after subsets, at least two.
    """
    folders: dict[str, set[str]] = defaultdict(set)
    for name in images:
        top, *inner = name.split("/")[:-1] or [""]
        if inner:
            folders[top].add(inner[0])
        if len(inner) > 1 and inner[0].casefold() in {*KINDS_OF_FILES, top.casefold()}:
            folders[f"{top}/{inner[0]}"].add(inner[1])
    for place, inside in sorted(folders.items()):
        if _names_several(inside):
            raise _subsets_error(tree, f"{place} contains", inside, layout)
    within = {inside for place, each in folders.items() if "/" not in place for inside in each}
    outside = any(name.count("/") == 1 for name in images)
    if not outside and _names_several(within) and set(subset_names(within)) == within:
        raise _subsets_error(tree, "the class folders contain", within, layout)


def _names_several(folders: Iterable[str]) -> bool:
    return len({*subset_names(folders).values()}) > 1


def _subsets_error(tree: FileTree, where: str, inside: set[str], layout: str) -> UserError:
    """The error; data sets of defects, such as MVTec AD, have masks beside the subsets."""
    remedy = "Put the subsets above the classes."
    if any(map(_mask_words, inside)):
        remedy = (
            "Data sets of defects are laid out so: to learn the defects of one object, sort its "
            "test images into one folder for each defect, without the masks; to learn the objects, "
            "make train/<object> and test/<object>."
        )
    return UserError(
        f"{tree.path}: {where} folders named after subsets ({format_names(subset_names(inside))})."
        f" {remedy} {layout}"
    )


def _words(folder: str) -> list[str]:
    """The words of a name; "ground truth" is one."""
    words = split_words(folder)
    if {"ground", "truth"} <= {*words}:
        return [word for word in words if word not in ("ground", "truth")] + ["groundtruth"]
    return words


def _mask_words(folder: str) -> set[str]:
    words = {*_words(folder)}
    return set() if words & _STATES else words & _MASK_WORDS


def _is_all_masks(folder: str) -> bool:
    """Whether a name says nothing but that: "masks", "mask_png"."""
    return bool(_mask_words(folder)) and {*_words(folder)} <= _MASK_WORDS | FILLERS

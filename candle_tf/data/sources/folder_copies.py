"""Copies of a data set beside each other, which read like classes: color/, grayscale/, segmented/.

    refuse_copies(tree, "", images)          # color/scab/1.jpg, grayscale/scab/1.jpg, ...

Copies hold the same class folders. But class folders may hold the same folders, too: those of days
or cameras. Only names such as "color" and "fold1" tell which of the two it is.
"""

from collections.abc import Iterable
from pathlib import Path

from absl import logging

from candle_tf.data.sources.file_tree import FileTree
from candle_tf.data.sources.source import format_names
from candle_tf.data.sources.subset_names import split_words
from candle_tf.errors import UserError

# Words of folders that hold all classes in one rendering, or a part of each class. Words that name
# classes of other data sets, such as "processed" (food) or "part", are left out.
_VERSIONS = frozenset(
    {"color", "colour", "colored", "coloured", "rgb", "gray", "grey", "grayscale", "greyscale",
     "segmented", "augmented", "augmentation", "aug", "original", "originals", "raw", "cropped",
     "resized", "preprocessed", "fold", "folds"}
)  # fmt: skip
# A folder that is shared by chance is one; classes are at least two.
_FEWEST = 2


def refuse_copies(tree: FileTree, prefix: str, images: Iterable[str]) -> None:
    """Refuses class folders that are copies or parts of one data set; warns where they may be.

    Args:
        tree: Where the class folders are.
        prefix: Path of the folder that holds them, which ends with "/"; "" for the whole tree.
        images: Paths of the images in the class folders.

    Raises:
        UserError: If all class folders are named as copies or folds, no image lies directly in
            them, and they share at least two folders.
    """
    inside: dict[str, set[str]] = {}
    for name in images:
        top, _, rest = name.removeprefix(prefix).partition("/")
        if "/" not in rest:
            return
        inside.setdefault(top, set()).add(rest.partition("/")[0])
    shared = set.intersection(*inside.values()) if len(inside) > 1 else set()
    if len(shared) < _FEWEST:
        return
    if _are_versions(inside):
        raise UserError(
            f"{tree.path}: the folders {format_names(inside)} are named as copies or parts of one "
            f"data set, and hold the same folders ({format_names(shared)}), which are its classes: "
            f"{_how_to_choose(tree, prefix, min(inside))}. If they are classes nevertheless, give "
            "them other names."
        )
    if all(folders == shared for folders in inside.values()):
        logging.warning(
            "%s: the folders %s are read as classes. Each of them holds the folders %s. If these "
            "are the classes, %s",
            tree.path,
            format_names(inside),
            format_names(shared),
            _how_to_choose(tree, prefix, min(inside)),
        )


def _are_versions(names: Iterable[str]) -> bool:
    """Whether names differ only in numbers and words for versions: plant_color, plant_gray."""
    words = [split_words(name) for name in names]
    others = {tuple(word for word in each if word not in _VERSIONS) for each in words}
    return len(others) == 1 and all(_VERSIONS.intersection(each) for each in words)


def _how_to_choose(tree: FileTree, prefix: str, example: str) -> str:
    """What to do if the class folders are copies of one data set."""
    if prefix:
        return f"keep those of one copy alone, in {prefix} and the other subsets"
    together = "or put the images of each class into one folder"
    if Path(tree.path).is_dir():
        return f"give one copy, such as --data_dir={tree.path}/{tree.top}{example}, {together}"
    return (
        f"unpack one copy, such as {tree.top}{example}, and give its folder as --data_dir, "
        f"{together}"
    )

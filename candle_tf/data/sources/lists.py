"""Lists of images: CSV, TSV, or lines of `<path> <label>`, as ImageNet-LT and Places-LT ship.

    with open_source("list", "imagenet.tar", train_list="ImageNet_LT_train.txt",
                     test_list="ImageNet_LT_test.txt") as source: ...

Paths are relative to the folder or archive of the images. Labels are class indices from 0 if every
label of every list is a whole number (1 or 1.0), else class names. Names are sorted to get label
order, unless a file of class names gives the order. A table with a column "split" holds several
subsets.
"""

from pathlib import Path

from absl import logging

from candle_tf.data.sources.file_tree import tree_source
from candle_tf.data.sources.list_entries import LIST_FORMAT, Entries, read_list
from candle_tf.data.sources.list_images import check_first_names, images_of_lists
from candle_tf.data.sources.list_labels import (
    measured_labels,
    read_class_names,
    subsets_of_lists,
    training_labels,
)
from candle_tf.data.sources.source import Source, SourceConfig
from candle_tf.errors import UserError


def open_list(name: str, config: SourceConfig) -> Source:
    """Opens images that are listed in files.

    Raises:
        UserError: If a file is missing or wrong; names the file and the line.
    """
    for flag in ("data_dir", "train_list"):
        if not getattr(config, flag):
            raise UserError(f"The data set {name!r} needs --{flag}. {LIST_FORMAT}")
    lists = _read_lists(config)
    return list_source(name, config, lists)


def list_source(
    name: str,
    config: SourceConfig,
    lists: dict[str, Entries],
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
    names = read_class_names(config.class_names)
    if config.known_classes:
        lists = _with_test_subset(lists)
        names, numbers = measured_labels(lists, names, config.known_classes, numbers_are_indices)
    else:
        names, numbers = training_labels(lists, names, numbers_are_indices)
    subsets = subsets_of_lists(lists, names, numbers, bool(config.known_classes))
    _refuse_shared_images(lists)
    tree = images_of_lists(config, lists)
    try:
        check_first_names(tree, lists)
    except BaseException:
        tree.close()
        raise
    return tree_source(name, names, subsets, tree)


def _read_lists(config: SourceConfig) -> dict[str, Entries]:
    given = {
        "train": config.train_list,
        "test": config.test_list,
        "validation": config.validation_list,
    }
    lists = {subset: read_list(Path(path).expanduser()) for subset, path in given.items() if path}
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


def _with_test_subset(lists: dict[str, Entries]) -> dict[str, Entries]:
    """The same lists; of a measurement without a test subset, validation is that, as in folders."""
    if "test" in lists or "validation" not in lists:
        return lists
    logging.info("%s: validation becomes the test subset", lists["validation"].path)
    others = {subset: entries for subset, entries in lists.items() if subset != "validation"}
    return {**others, "test": lists["validation"]}


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

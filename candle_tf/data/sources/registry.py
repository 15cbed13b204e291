"""Data sets: which images there are, their classes, and how to read one.

    with open_source("folder", "caltech101.zip") as source:
        source.class_names[source.train.labels[0]]        # "Faces"
        source.read_image(source.train.ids[0])            # uint8 (H, W, 3)

A new kind of data set is one function of (name, place), in a module of its own, and a line in
`_KINDS`; what every kind gives is `Source`, in `candle_tf.data.sources.source`.
"""

from collections.abc import Callable

from candle_tf.data.sources.digits import open_digits
from candle_tf.data.sources.fashion_mnist import open_fashion_mnist
from candle_tf.data.sources.file_tree import EXTENSIONS
from candle_tf.data.sources.folder import open_folder
from candle_tf.data.sources.lists import open_list
from candle_tf.data.sources.source import Partition, Place, Source
from candle_tf.data.sources.tfds import open_tfds
from candle_tf.errors import UserError

__all__ = ["DATASETS", "EXTENSIONS", "Partition", "Place", "Source", "open_source"]

_KINDS: dict[str, Callable[[str, Place], Source]] = {
    "digits": open_digits,
    "folder": open_folder,
    "list": open_list,
    "fashion_mnist": open_fashion_mnist,
    "tfds": open_tfds,
}
DATASETS = tuple(_KINDS)


def open_source(dataset: str, data_dir: str = "", **place: str) -> Source:
    """Opens a data set.

    An official validation part becomes `Source.validation`; it is neither in `train` nor in
    `test`. See docs/data.md for what each kind expects.

    Args:
        dataset: One of `DATASETS`; what follows a colon belongs to the kind, e.g.
            "tfds:caltech101:3.0.1".
        data_dir: See `Place`.
        **place: The other attributes of `Place`: train_list, test_list, ...

    Raises:
        UserError: If the data set is unknown, or is not there as expected.
    """
    kind, colon, rest = dataset.partition(":")
    # Of TensorFlow Datasets a builder follows; of the others nothing.
    if kind not in _KINDS or (kind == "tfds") != bool(colon and rest):
        known = ", ".join("tfds:<builder>" if kind == "tfds" else kind for kind in DATASETS)
        raise UserError(f"Unknown data set {dataset!r}: choose one of {known}.")
    return _KINDS[kind](dataset, Place(data_dir, **place))

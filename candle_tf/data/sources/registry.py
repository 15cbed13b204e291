"""Opens a data set by name: its images, their classes, and how to read one.

    with open_source("folder", "caltech101.zip") as source:
        source.class_names[source.train.labels[0]]        # "Faces"
        source.read_image(source.train.ids[0])            # uint8 [H, W, 3]

To add a kind of data set, write a function of (name, config) that returns a `Source`, in a module
of its own, and add a line to `_KINDS`.
"""

from collections.abc import Callable

from candle_tf.data.sources.digits import open_digits
from candle_tf.data.sources.fashion_mnist import open_fashion_mnist
from candle_tf.data.sources.file_tree import EXTENSIONS
from candle_tf.data.sources.folder import open_folder
from candle_tf.data.sources.lists import open_list
from candle_tf.data.sources.source import LabelledImages, Source, SourceConfig
from candle_tf.data.sources.tfds import open_tfds
from candle_tf.errors import UserError

__all__ = ["DATASETS", "EXTENSIONS", "LabelledImages", "Source", "SourceConfig", "open_source"]

_KINDS: dict[str, Callable[[str, SourceConfig], Source]] = {
    "digits": open_digits,
    "folder": open_folder,
    "list": open_list,
    "fashion_mnist": open_fashion_mnist,
    "tfds": open_tfds,
}
DATASETS = tuple(_KINDS)


def open_source(dataset: str, data_dir: str = "", **settings: str) -> Source:
    """Opens a data set.

    See docs/data.md for what each kind expects.

    Args:
        dataset: One of `DATASETS`; a kind may take more after a colon, e.g.
            "tfds:caltech101:3.0.1".
        data_dir: See `SourceConfig`.
        **settings: The other attributes of `SourceConfig`: train_list, test_list, ...

    Raises:
        UserError: If the data set is unknown, missing or not laid out as expected.
    """
    kind, colon, rest = dataset.partition(":")
    # Only "tfds" is followed by a colon and a builder.
    if kind not in _KINDS or (kind == "tfds") != bool(colon and rest):
        known = ", ".join("tfds:<builder>" if kind == "tfds" else kind for kind in DATASETS)
        raise UserError(f"Unknown data set {dataset!r}: choose one of {known}.")
    return _KINDS[kind](dataset, SourceConfig(data_dir, **settings))

"""Opens a data set by name: its images, their classes, and how to read one.

    with open_source("folder", "caltech101.zip") as source:
        source.class_names[source.train.labels[0]]        # "Faces"
        source.read_image(source.train.ids[0])            # uint8 [H, W, 3]

To add a kind of data set, write a function of (name, config) that returns a `Source`, in a module
of its own, and add a line to `SOURCES`.
"""

import dataclasses
from collections.abc import Callable, Sequence

from candle_tf.data.sources.source import (
    LabelledImages,
    Source,
    SourceConfig,
    require_one_line_names,
)
from candle_tf.errors import UserError
from candle_tf.files import explain_path
from candle_tf.registry import Registry, refuse_signature

__all__ = ["SOURCES", "LabelledImages", "Source", "SourceConfig", "open_source"]

SOURCES: Registry[Callable[[str, SourceConfig], Source]] = Registry(
    {
        "digits": "candle_tf.data.sources.digits:open_digits",
        "folder": "candle_tf.data.sources.folder:open_folder",
        "list": "candle_tf.data.sources.lists:open_list",
        "coco": "candle_tf.data.sources.coco:open_coco",
        "fashion_mnist": "candle_tf.data.sources.fashion_mnist:open_fashion_mnist",
        "tfds:<builder>": "candle_tf.data.sources.tfds:open_tfds",
    }
)

_OPTIONS = tuple(
    field.name
    for field in dataclasses.fields(SourceConfig)
    if field.name not in ("data_dir", "known_classes")
)


def open_source(
    dataset: str, data_dir: str = "", known_classes: Sequence[str] = (), **settings: str
) -> Source:
    """Opens a data set.

    See docs/data.md for what each kind expects.

    Args:
        dataset: One of `SOURCES`, e.g. "folder" or "tfds:caltech101:3.0.1".
        data_dir: See `SourceConfig`.
        known_classes: See `SourceConfig`: only for data that a student is measured on.
        **settings: The other attributes of `SourceConfig`: train_list, test_list, ...

    Raises:
        UserError: If the data set or a setting is unknown, or the data are missing or not laid out
            as expected; if a function of `SOURCES` takes other arguments, or returns no `Source`,
            or one of other labels.
    """
    found = SOURCES.find(dataset)
    if found is None:
        raise UserError(
            f"Unknown data set {dataset!r}: choose one of {', '.join(SOURCES)} (or --plugin)."
        )
    kind, _ = found
    title = f"source {SOURCES.title(kind)}"
    refuse_signature(title, SOURCES[kind], "name", "config")
    if unknown := sorted(set(settings) - set(_OPTIONS)):
        raise UserError(
            f"{unknown[0]}={settings[unknown[0]]!r} is no option of a data set; it is one of "
            f"{', '.join(_OPTIONS)}."
        )
    try:
        config = SourceConfig(data_dir, known_classes=tuple(known_classes), **settings)
        source = SOURCES[kind](dataset, config)
    except OSError as error:
        if explained := explain_path(error):
            raise explained from error
        raise
    if not isinstance(source, Source):
        raise UserError(f"{title} returned {type(source).__name__} and not a Source.")
    try:
        _require_labels(title, source)
        require_one_line_names(source.class_names)
    except UserError:
        source.close()
        raise
    return source


def _require_labels(title: str, source: Source) -> None:
    """Checks that labels are places in the list of class names."""
    names = source.class_names
    if wrong := [name for name in names if not isinstance(name, str)]:
        kind = type(wrong[0]).__name__
        raise UserError(f"{title}: the class name {wrong[0]!r} is of type {kind} and no text.")
    for subset in (source.train, source.test, source.validation):
        if subset is None or not len(subset.labels):
            continue
        least, most = int(subset.labels.min()), int(subset.labels.max())
        if least < 0 or most >= len(names):
            raise UserError(
                f"{title}: labels {least}..{most} for {len(names)} class names; count from 0."
            )

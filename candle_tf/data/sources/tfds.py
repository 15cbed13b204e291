"""Any data set of TensorFlow Datasets that has an image and a class label.

    open_source("tfds:caltech101")                      # where TFDS keeps its data
    open_source("tfds:dtd:3.0.1", "/data/tfds")         # a version, in another data folder

Nothing is downloaded here: a missing data set is an error that says how to prepare it. Records are
read by random access. ArrayRecord files have an index; for TFRecord files the offsets of the
records are read when the data set is opened. Ids are "<split>/<number in the order of the files>",
which TFDS fixes when it prepares a data set, or "<split>/<own id>/<number>" if the data set has ids
of its own.
CIFAR's ids number the images in their original order, which the selection of LDAM-DRW
needs. Labels and ids are read in one pass over all records, at each start.
"""

import os
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from absl import logging

from candle_tf.data.images.decode import decode_image
from candle_tf.data.sources.source import (
    NO_IMAGES,
    LabelledImages,
    Source,
    SourceConfig,
    format_names,
    require_every_class,
)
from candle_tf.errors import UserError

_SUBSETS = ("train", "test", "validation")
# TFRecord: a length, its checksum, the data, its checksum.
_LENGTH = struct.Struct("<Q")
_CHECKSUM_BYTES = 4


class _Records(Protocol):
    """Random access to records: features by number, the image still encoded."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> dict[str, Any]: ...


def open_tfds(name: str, config: SourceConfig, builder_name: str = "") -> Source:
    """Opens a data set that TensorFlow Datasets has prepared.

    If it has a validation subset but no labelled test subset, as ImageNet, the validation subset
    becomes the test subset.

    Args:
        name: "tfds:<builder>[/<config>][:<version>]", or any name with `builder_name`.
        config: `data_dir` is TFDS's data folder, its default if empty.
        builder_name: "<builder>[/<config>][:<version>]".

    Raises:
        UserError: If the data set does not exist, is not prepared, or has no image with a label.
    """
    builder_name = builder_name or name.partition(":")[2]
    builder = _builder(builder_name, config.data_dir)
    image, label, own_id = _features(builder, builder_name)
    records: dict[str, _Records] = {}
    subsets: dict[str, LabelledImages] = {}
    for subset in _SUBSETS:
        if subset in (builder.info.splits or ("train", "test")):
            records[subset] = _open_records(builder, builder_name, subset, image)
            labels, ids = _labels(records[subset], label, own_id, subset, builder_name)
            if len(labels) and labels.min() < 0:
                logging.warning("%s: the subset %r has no labels: skipped", builder_name, subset)
                continue
            subsets[subset] = LabelledImages(ids, labels)
    if "train" not in subsets and not (config.known_classes and subsets):
        raise UserError(
            f"{builder_name} has no labelled split 'train', but {', '.join(builder.info.splits)}. "
            "Choose another data set."
        )
    if "test" not in subsets and "validation" in subsets:
        logging.info(
            "%s: no labelled test subset: 'validation' becomes the test subset", builder_name
        )
        subsets["test"] = subsets.pop("validation")
    class_names, subsets = _without_empty_classes(
        tuple(builder.info.features[label].names), subsets, builder_name
    )
    if not config.known_classes:
        require_every_class(subsets["train"].labels, class_names, builder_name)
    change_tokens = {subset: _change_token(builder, subset) for subset in records}
    # Readers of one file share its position.
    lock = threading.Lock()

    def find(image_id: str) -> tuple[str, int]:
        subset, row = image_id.partition("/")[0], image_id.rpartition("/")[2]
        if subset not in records or not row.isdecimal() or int(row) >= len(records[subset]):
            raise KeyError(image_id)
        return subset, int(row)

    def read_encoded(image_id: str) -> bytes:
        subset, row = find(image_id)
        try:
            with lock:
                return records[subset][row][image]
        except (OSError, ValueError, struct.error) as error:
            raise UserError(
                f"{builder_name}: {image_id} cannot be read ({error}). Prepare the data set again."
            ) from error

    return Source(
        name,
        class_names,
        subsets.get("train", NO_IMAGES),
        subsets.get("test"),
        lambda image_id: decode_image(read_encoded(image_id), f"{builder_name}: {image_id}"),
        lambda image_id: f"{change_tokens[find(image_id)[0]]} {image_id}",
        validation=subsets.get("validation"),
        encoded=read_encoded,
    )


def _builder(builder_name: str, data_dir: str) -> Any:
    # Imported here: it takes a second, and no other data set needs it.
    import tensorflow_datasets as tfds

    folder = str(Path(data_dir).expanduser()) if data_dir else None
    try:
        return tfds.builder(builder_name, data_dir=folder)
    except tfds.core.DatasetNotFoundError as error:
        raise UserError(
            f"TensorFlow Datasets {tfds.__version__} knows no data set {builder_name!r}. Its list "
            "is printed by tfds.list_builders()."
        ) from error
    except (ValueError, AssertionError, ImportError) as error:
        raise UserError(f"tfds:{builder_name} cannot be opened: {error}") from error


def _features(builder: Any, builder_name: str) -> tuple[str, str, str]:
    """Names of the image, of the label and of the data set's own id, which may be ""."""
    import tensorflow_datasets as tfds

    features = builder.info.features
    found: list[str] = []
    for kind, usual in ((tfds.features.Image, "image"), (tfds.features.ClassLabel, "label")):
        names = [key for key, feature in features.items() if type(feature) is kind]
        supervised = [key for key in builder.info.supervised_keys or () if key in names]
        chosen = [usual] if usual in names else supervised or names
        if len(chosen) != 1:
            raise UserError(
                f"tfds:{builder_name} has no image with one class label: its features are "
                f"{', '.join(features)}. Choose a data set for classification."
            )
        found += chosen
    own_id = "id" if isinstance(dict(features.items()).get("id"), tfds.features.Text) else ""
    return found[0], found[1], own_id


def _open_records(builder: Any, builder_name: str, subset: str, image: str) -> _Records:
    import tensorflow_datasets as tfds

    decoders = {image: tfds.decode.SkipDecoding()}
    try:
        return builder.as_data_source(subset, decoders=decoders)
    except (NotImplementedError, AssertionError, OSError) as error:
        if not builder.is_prepared():
            raise UserError(
                f"tfds:{builder_name} is not in {builder._data_dir_root}. "
                f"{_how_to_fetch(builder, builder_name)}"
            ) from error
        if not isinstance(error, NotImplementedError):
            raise UserError(f"tfds:{builder_name} cannot be read: {error}") from error
        # Not ArrayRecord.
        if builder.info.file_format != tfds.core.FileFormat.TFRECORD:
            raise UserError(
                f"tfds:{builder_name} is prepared as {builder.info.file_format.value}, which has "
                f"no random access. {_how_to_fetch(builder, builder_name)}"
            ) from error
    features = builder.info.features
    return _TfRecords(
        [Path(path) for path in builder.info.splits[subset].filepaths],
        lambda data: features.deserialize_example_np(data, decoders=decoders),
    )


def _how_to_fetch(builder: Any, builder_name: str) -> str:
    manual = (builder.MANUAL_DOWNLOAD_INSTRUCTIONS or "").strip()
    by_hand = f" First, by hand: {' '.join(manual.split())}" if manual else ""
    return (
        "Fetch and prepare it, with network, by: tfds build "
        f"{builder_name} --file_format=array_record --data_dir={builder._data_dir_root}.{by_hand}"
    )


def _labels(
    records: _Records, label: str, own_id: str, subset: str, builder_name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels, int32 [N], and ids."""
    labels = np.empty(len(records), np.int32)
    ids = []
    for i in range(len(records)):
        record = records[i]
        labels[i] = record[label]
        ids.append(f"{subset}/{_text(record[own_id])}/{i:06d}" if own_id else f"{subset}/{i:06d}")
        if (i + 1) % 100_000 == 0:
            logging.info("%s, %s: %d of %d labels read", builder_name, subset, i + 1, len(records))
    return labels, tuple(ids)


def _without_empty_classes(
    class_names: tuple[str, ...], subsets: dict[str, LabelledImages], builder_name: str
) -> tuple[tuple[str, ...], dict[str, LabelledImages]]:
    """Leaves out classes that the data set declares, but has in no subset, as EMNIST's letters."""
    labels = np.concatenate([subset.labels for subset in subsets.values()])
    counts = np.bincount(labels, minlength=len(class_names))
    if counts.all():
        return class_names, subsets
    empty, kept = np.flatnonzero(counts == 0), np.flatnonzero(counts)
    logging.warning(
        "%s declares %d classes; of the class %s no subset has an image: left out",
        *(builder_name, len(class_names), format_names(class_names[c] for c in empty)),
    )
    new_labels = np.cumsum(counts > 0) - 1
    renumbered = {
        name: LabelledImages(subset.ids, new_labels[subset.labels])
        for name, subset in subsets.items()
    }
    return tuple(class_names[c] for c in kept), renumbered


def _text(value: Any) -> str:
    """A text feature as a string; TFDS returns bytes or a string."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _change_token(builder: Any, subset: str) -> str:
    """Version, and sizes and times of the files."""
    paths = [Path(path) for path in builder.info.splits[subset].filepaths] if (
        subset in builder.info.splits
    ) else []  # fmt: skip
    states = [path.stat() for path in paths if path.exists()]
    files = " ".join(f"{state.st_size} {state.st_mtime_ns}" for state in states)
    return f"{builder.info.full_name} {files}"


class _TfRecords:
    """Random access to TFRecord files, with an index of 8 bytes per record."""

    def __init__(self, paths: list[Path], parse: Callable[[bytes], dict[str, Any]]) -> None:
        self._paths, self._parse = paths, parse
        found = [_record_starts(path) for path in paths]
        self._starts = np.concatenate([np.empty(0, np.int64), *found])
        self._ends = np.cumsum([len(starts) for starts in found])

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, row: int, /) -> dict[str, Any]:
        path = self._paths[int(np.searchsorted(self._ends, row, side="right"))]
        with path.open("rb") as file:
            file.seek(int(self._starts[row]))
            (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
            file.seek(_CHECKSUM_BYTES, os.SEEK_CUR)
            data = file.read(length)
        if len(data) != length:
            raise ValueError(f"{path} is cut short")
        return self._parse(data)


def _record_starts(path: Path) -> np.ndarray:
    """Byte offset of each record, int64 [N]."""
    starts, at = [], 0
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            while at < size:
                starts.append(at)
                file.seek(at)
                (length,) = _LENGTH.unpack(file.read(_LENGTH.size))
                at += _LENGTH.size + length + 2 * _CHECKSUM_BYTES
        if at != size:
            raise ValueError(f"the last record should end at byte {at:,} of {size:,}")
    except (OSError, ValueError, OverflowError, struct.error) as error:
        raise UserError(
            f"{path}: not a whole TFRecord file ({error}). Prepare the data set again."
        ) from error
    return np.array(starts, np.int64)

"""Any data set of TensorFlow Datasets that has an image and a class label.

    open_source("tfds:caltech101")                      # where TFDS keeps its data
    open_source("tfds:dtd:3.0.1", "/data/tfds")         # a version, in another data folder

Nothing is ever downloaded here: a data set that is not there is an error that says how to fetch it.
Records are read one by one where they lie. ArrayRecord files have an index for that; of TFRecord
files the places of the records are noted when the data set is opened, in one pass over their
lengths. Ids are "<split>/<number in the order of the files>", an order that TFDS fixes when it
prepares a data set; where a data set has ids of its own, "<split>/<own id>/<number>". CIFAR's own
ids count the images in their original order, which LDAM-DRW's selection goes by. Labels and ids
are read in one pass over all records, at each start.
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
from candle_tf.data.sources.source import Partition, Place, Source, require_every_class
from candle_tf.errors import UserError

_PARTS = ("train", "test", "validation")
# TFRecord: a length, its checksum, the data, its checksum.
_LENGTH = struct.Struct("<Q")
_CHECKSUM_BYTES = 4


class _Records(Protocol):
    """From a record's number to its features, the image still encoded."""

    def __len__(self) -> int: ...

    def __getitem__(self, row: int, /) -> dict[str, Any]: ...


def open_tfds(name: str, place: Place, builder_name: str = "") -> Source:
    """Opens a data set that TensorFlow Datasets has prepared.

    Where it has no labelled test part but a validation part, as ImageNet, that is the test part.

    Args:
        name: "tfds:<builder>[/<config>][:<version>]", or any name with `builder_name`.
        place: of which `data_dir` is TFDS's data folder; its own if empty.
        builder_name: "<builder>[/<config>][:<version>]".

    Raises:
        UserError: If there is no such data set, it is not prepared, or is not one of classes.
    """
    builder_name = builder_name or name.partition(":")[2]
    builder = _builder(builder_name, place.data_dir)
    image, label, own_id = _features(builder, builder_name)
    records: dict[str, _Records] = {}
    parts: dict[str, Partition] = {}
    for part in _PARTS:
        if part in (builder.info.splits or ("train", "test")):
            records[part] = _open_records(builder, builder_name, part, image)
            labels, ids = _labels(records[part], label, own_id, part, builder_name)
            if len(labels) and labels.min() < 0:
                logging.warning("%s: the part %r has no labels: passed over", builder_name, part)
                continue
            parts[part] = Partition(ids, labels)
    if "train" not in parts:
        raise UserError(
            f"{builder_name} has no labelled split 'train', but {', '.join(builder.info.splits)}. "
            "Choose another data set."
        )
    if "test" not in parts and "validation" in parts:
        logging.info("%s: no labelled test part, so 'validation' is tested on", builder_name)
        parts["test"] = parts.pop("validation")
    class_names = tuple(builder.info.features[label].names)
    require_every_class(parts["train"].labels, class_names, builder_name)
    stamps = {part: _stamp(builder, part) for part in records}
    # Readers of one file share a position.
    lock = threading.Lock()

    def find(image_id: str) -> tuple[str, int]:
        part, row = image_id.partition("/")[0], image_id.rpartition("/")[2]
        if part not in records or not row.isdecimal() or int(row) >= len(records[part]):
            raise KeyError(image_id)
        return part, int(row)

    def encoded(image_id: str) -> bytes:
        part, row = find(image_id)
        try:
            with lock:
                return records[part][row][image]
        except (OSError, ValueError, struct.error) as error:
            raise UserError(
                f"{builder_name}: {image_id} cannot be read ({error}). Prepare the data set again."
            ) from error

    return Source(
        name,
        class_names,
        parts["train"],
        parts.get("test"),
        lambda image_id: decode_image(encoded(image_id), f"{builder_name}: {image_id}"),
        lambda image_id: f"{stamps[find(image_id)[0]]} {image_id}",
        validation=parts.get("validation"),
        encoded=encoded,
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


def _open_records(builder: Any, builder_name: str, part: str, image: str) -> _Records:
    import tensorflow_datasets as tfds

    decoders = {image: tfds.decode.SkipDecoding()}
    try:
        return builder.as_data_source(part, decoders=decoders)
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
        [Path(path) for path in builder.info.splits[part].filepaths],
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
    records: _Records, label: str, own_id: str, part: str, builder_name: str
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels, int32 [N], and ids."""
    labels = np.empty(len(records), np.int32)
    ids = []
    for i in range(len(records)):
        record = records[i]
        labels[i] = record[label]
        ids.append(f"{part}/{_text(record[own_id])}/{i:06d}" if own_id else f"{part}/{i:06d}")
        if (i + 1) % 100_000 == 0:
            logging.info("%s, %s: %d of %d labels read", builder_name, part, i + 1, len(records))
    return labels, tuple(ids)


def _text(value: Any) -> str:
    """A text feature as it is read, bytes or text."""
    return value.decode(errors="replace") if isinstance(value, bytes) else str(value)


def _stamp(builder: Any, part: str) -> str:
    """Version, and sizes and times of the files."""
    paths = [Path(path) for path in builder.info.splits[part].filepaths] if (
        part in builder.info.splits
    ) else []  # fmt: skip
    states = [path.stat() for path in paths if path.exists()]
    files = " ".join(f"{state.st_size} {state.st_mtime_ns}" for state in states)
    return f"{builder.info.full_name} {files}"


class _TfRecords:
    """Random access to TFRecord files; 12 bytes of index a record."""

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
    """Byte at which each record begins, int64."""
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

"""What the images of a run, with labels or without, were when they were first read.

record_contents(path, split.hash, source, ids_of(split), scan)
changed_images(path, split.hash, source, ids_of(split), cache)   # later: ids with other bytes
read_contents(path, split.hash, len(ids_of(split))).hashes       # what was recorded

The record has a hash of each image's bytes, and the images' change tokens (sizes and modification
times; checksums in a ZIP). While these are the same no image is read. Where they differ, as copies
of the images have other times, the images are read again and their bytes decide.
"""

import base64
import hashlib
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from candle_tf.data.images.scan import Scan, scan_images
from candle_tf.data.sources.registry import Source
from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, write_atomically

# Of each image's SHA-256: enough to tell that it changed, in a file smaller than the split's.
HASH_BYTES = 8
# Reading waits for the disk, and a hash is computed without Python's lock.
_THREADS = 4
# Images whose reading is asked for at once: a place in the queue takes more memory than a hash.
_BLOCK = 4096
# In a record: of which images it is.
_KEY = "split"
_REMEDY = "Restore it, or choose a new run folder."


@dataclass(frozen=True, eq=False)
class Contents:
    """What a record holds of N images.

    Attributes:
        tokens: one text of the change tokens of all of them, as `change_tokens` gives it.
        hashes: uint8 `[N, 8]`, the beginning of the SHA-256 of each image's bytes.
    """

    tokens: str
    hashes: np.ndarray


def record_contents(path: Path, key: str, source: Source, ids: Sequence[str], scan: Scan) -> None:
    """Writes the record; one of the same key stays as it is.

    Args:
        path: of the JSON file.
        key: tells which images these are: the hash of their split.
        source: of the images.
        ids: without images that cannot be read.
        scan: covers these images.
    """
    if has_contents(path, key):
        return
    record = {
        _KEY: key,
        "tokens": change_tokens(source, ids),
        "hashes": base64.b64encode(_hashes(scan, ids).tobytes()).decode(),
    }
    write_atomically(path, (json.dumps(record, indent=1) + "\n").encode())


def has_contents(path: Path, key: str) -> bool:
    """Whether there is a record of these images; runs of older versions have none.

    Raises:
        UserError: where the record is damaged.
    """
    return path.exists() and _read(path).get(_KEY) == key


def read_contents(path: Path, key: str, count: int) -> Contents | None:
    """Reads the record; None where there is none of these images, as in runs of older versions.

    Args:
        path: of the JSON file.
        key: as of `record_contents`.
        count: of the images.

    Raises:
        UserError: where the record is damaged.
    """
    record = _read(path) if path.exists() else {}
    if record.get(_KEY) != key:
        return None
    try:
        stored = base64.b64decode(record["hashes"], validate=True)
        hashes = np.frombuffer(stored, np.uint8).reshape(count, HASH_BYTES)
        return Contents(record["tokens"], hashes)
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise UserError(f"{path} is damaged ({reason}). {_REMEDY}") from error


def changed_images(
    path: Path, key: str, source: Source, ids: Sequence[str], cache: Path
) -> list[str]:
    """Ids of the images whose bytes are not the recorded ones; none where there is no record.

    Args:
        path: of the JSON file.
        key: as of `record_contents`.
        source: of the images.
        ids: as of `record_contents`.
        cache: folder of a scan, where one is needed.

    Raises:
        UserError: where the record is damaged.
    """
    before = read_contents(path, key, len(ids))
    if before is None or change_tokens(source, ids) == before.tokens:
        return []
    logging.info("files of images have other sizes or times than before: their bytes are compared")
    now = _hashes(scan_images(source, ids, cache), ids)
    return [ids[i] for i in np.flatnonzero((now != before.hashes).any(axis=1))]


def _read(path: Path) -> dict[str, Any]:
    return read_json_object(path, _REMEDY)


def ids_of(split: Split) -> list[str]:
    """Ids of the images of all subsets, in the order of a record."""
    return [image_id for subset in split.subsets.values() for image_id in subset.ids]


def change_tokens(source: Source, ids: Sequence[str]) -> str:
    """One text that changes with the size or time of a file; nothing is read."""
    return source.content_hash(ids, missing="missing")


def hash_images(source: Source, ids: Sequence[str]) -> list[bytes]:
    """What a record has of each image's bytes; of an image that cannot be read no bytes.

    Several images are read at once.
    """

    def hash_one(image_id: str) -> bytes:
        try:
            return hashlib.sha256(source.read_bytes(image_id)).digest()[:HASH_BYTES]
        except UserError:
            return b""

    found: list[bytes] = []
    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(ids), _BLOCK):
            found += pool.map(hash_one, ids[start : start + _BLOCK])
    return found


def _hashes(scan: Scan, ids: Sequence[str]) -> np.ndarray:
    """Beginnings of the hashes of some images of a scan, uint8 `[N, 8]`."""
    rows = dict(zip(scan.ids, range(len(scan.ids)), strict=True))
    return scan.hashes[[rows[image_id] for image_id in ids], :HASH_BYTES]

"""Reads every image once before a run: can it be decoded, and what is the hash of its bytes.

    scan = scan_images(source, ids, folder=cache)
    scan.bad                                              # ids that cannot be read
    find_duplicates(scan, ...)                            # candle_tf.data.splits.duplicates

A scan is cached block by block: an interrupted scan resumes, and later runs use a finished scan as
long as no image changed.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from candle_tf.data.cached_arrays import CheckRows, stored_array
from candle_tf.data.images.decode import DECODE_VERSION
from candle_tf.data.images.heif import find_decoders
from candle_tf.data.sources.source import Source
from candle_tf.errors import UserError

_BLOCK = 256
_THREADS = 4
_HASH_BYTES = 32
# Images that a message lists.
_SHOWN = 50
# Raise it with every change of what a scan stores; of what can be decoded see `DECODE_VERSION`.
_VERSION = 3


@dataclass(frozen=True, eq=False)
class Scan:
    """The result of a scan.

    Attributes:
        ids: N ids, in the given order.
        readable: bool [N], whether an image can be decoded.
        hashes: uint8 [N, 32], SHA-256 of each image's stored (not decoded) bytes; zeros if the
            image cannot be read.
    """

    ids: tuple[str, ...]
    readable: np.ndarray
    hashes: np.ndarray

    @property
    def bad(self) -> tuple[str, ...]:
        """Ids of the images that cannot be read."""
        return tuple(self.ids[i] for i in np.flatnonzero(~self.readable))


class _OtherImagesError(Exception):
    """A stored scan is of images with other bytes."""


def scan_images(source: Source, ids: Sequence[str], folder: Path) -> Scan:
    """Reads and decodes images, several at once, and logs the progress.

    Args:
        source: Data set of the images.
        ids: Images to scan.
        folder: Cache folder.

    Raises:
        UserError: If the cache cannot be written. An unreadable image is no error here.
    """
    content = source.content_hash(ids, missing="missing")
    # What could not be read can be once its decoder is installed.
    version = [_VERSION, DECODE_VERSION, *find_decoders().values()]
    key = {"source": source.name, "content": content, "version": version}

    def scan_block(start: int, stop: int) -> np.ndarray:
        return np.stack(list(pool.map(lambda i: _scan_image(source, i), ids[start:stop])))

    def is_current(start: int, rows: np.ndarray) -> bool:
        unreadable = [ids[start + row] for row in np.flatnonzero(rows[:, 0] == 0)]
        return not any(row[0] for row in pool.map(lambda i: _scan_image(source, i), unreadable))

    def check(places: np.ndarray, stored: np.ndarray) -> None:
        """Compares hashes alone: an image that cannot be read now could be read when scanned."""
        for place, row in zip(places.tolist(), stored, strict=True):
            try:
                data = source.read_bytes(ids[place])
            except UserError:
                continue
            if row[0] and row[1:].tobytes() != hashlib.sha256(data).digest():
                raise _OtherImagesError

    def scan(key: dict[str, Any], check: CheckRows | None) -> np.ndarray:
        return np.array(
            stored_array(
                *(folder, "scan", key, (len(ids), 1 + _HASH_BYTES), "uint8", _BLOCK, scan_block),
                is_current=is_current,
                check=check,
            )
        )

    with ThreadPoolExecutor(_THREADS) as pool:
        try:
            rows = scan(key, check)
        except _OtherImagesError:
            # Files of the same names, sizes and times, which another data set has.
            rows = scan({**key, "sample": source.sample_hash(ids)}, None)
    return Scan(tuple(ids), rows[:, 0] == 1, np.ascontiguousarray(rows[:, 1:]))


def reason(source: Source, image_id: str) -> str:
    """The error message that says why an image cannot be read, and where it is."""
    try:
        source.read_image(image_id)
    except UserError as error:
        return str(error)
    return f"{image_id}: could not be read when it was scanned, but can be read now. Start again."


def list_unreadable(reasons: Sequence[str]) -> str:
    """The text of messages about images that cannot be read, a line for each of the first 50.

    Args:
        reasons: of all of them, see `reason`.
    """
    return f"{len(reasons)} images cannot be read:{first_lines(reasons)}"


def first_lines(texts: Sequence[str]) -> str:
    """A line for each of the first 50, and how many more there are; each begins a new line."""
    shown = "".join(f"\n  {each}" for each in texts[:_SHOWN])
    return shown + (f"\n  and {len(texts) - _SHOWN} more" if len(texts) > _SHOWN else "")


def _scan_image(source: Source, image_id: str) -> np.ndarray:
    """uint8 [33]: 1 and the hash, or zeros if the image cannot be read."""
    row = np.zeros(1 + _HASH_BYTES, np.uint8)
    try:
        data = source.read_bytes(image_id)
        source.read_image(image_id)
    except UserError:
        return row  # `reason` gives the message
    row[0] = 1
    row[1:] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    return row

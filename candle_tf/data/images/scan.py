"""Looks at every image once before a run: can it be read, and which bytes is it made of.

    scan = scan_images(source, ids, folder=cache)
    scan.bad                                              # ids that cannot be read
    find_duplicates(scan, ...)                            # candle_tf.data.splits.duplicates

A scan is kept in the cache, block by block: a stopped one goes on, and a finished one is taken up
by later runs as long as no image changed.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from candle_tf.data.cached_arrays import stored_array
from candle_tf.data.sources.source import Source
from candle_tf.errors import UserError

_BLOCK = 256
_THREADS = 4
_HASH_BYTES = 32
# Changes when decoding does, so that no older scan is taken up.
_VERSION = 1


@dataclass(frozen=True, eq=False)
class Scan:
    """What a scan found.

    Attributes:
        ids: N ids, in the order they were given in.
        readable: bool (N,), whether an image can be decoded.
        hashes: uint8 (N, 32), SHA-256 of each image's bytes as they are stored, not decoded;
            zeros where it cannot be read.
    """

    ids: tuple[str, ...]
    readable: np.ndarray
    hashes: np.ndarray

    @property
    def bad(self) -> tuple[str, ...]:
        """Ids of the images that cannot be read."""
        return tuple(self.ids[i] for i in np.flatnonzero(~self.readable))


def scan_images(source: Source, ids: Sequence[str], folder: Path) -> Scan:
    """Reads and decodes images, several at once, and says how far it is.

    Args:
        source: Where the images are.
        ids: Which ones.
        folder: Cache folder.

    Raises:
        UserError: If the cache cannot be written. An image that cannot be read is no error here.
    """
    content = source.content_hash(ids, missing="missing")
    key = {"source": source.name, "content": content, "version": _VERSION}

    def look(start: int, stop: int) -> np.ndarray:
        return np.stack(list(pool.map(lambda i: _look_at(source, i), ids[start:stop])))

    with ThreadPoolExecutor(_THREADS) as pool:
        shape = (len(ids), 1 + _HASH_BYTES)
        rows = np.array(stored_array(folder, "scan", key, shape, "uint8", _BLOCK, look))
    return Scan(tuple(ids), rows[:, 0] == 1, np.ascontiguousarray(rows[:, 1:]))


def reason(source: Source, image_id: str) -> str:
    """Why an image cannot be read, with its place: the words of the error."""
    try:
        source.read_image(image_id)
    except UserError as error:
        return str(error)
    return f"{image_id}: could not be read when it was scanned, but can now. Start again."


def _look_at(source: Source, image_id: str) -> np.ndarray:
    """uint8 (33,): 1 and the hash, or zeros."""
    row = np.zeros(1 + _HASH_BYTES, np.uint8)
    try:
        data = source.read_bytes(image_id)
        source.read_image(image_id)
    except UserError:
        return row  # told by `reason`
    row[0] = 1
    row[1:] = np.frombuffer(hashlib.sha256(data).digest(), np.uint8)
    return row

"""Large arrays on disk, computed once, block by block, and never used when stale.

    features = stored_array(
        folder, name="features", key={"teacher": ..., "resolution": 160},
        shape=(12000, 1280), dtype="float16", block=256, compute=lambda start, stop: ...,
    )

The array is a memory-mapped .npy file. Its manifest, a JSON file beside it, has the key it was
computed from and a checksum of each finished block. An interrupted computation resumes after its
last finished block. A block with a wrong checksum is computed again. Another key is another file.
At most one block is in memory while it is computed.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from candle_tf.errors import UserError
from candle_tf.files import write_atomically

Compute = Callable[[int, int], np.ndarray]


def key_digest(key: Mapping[str, Any]) -> str:
    """SHA-256 (hex) over a JSON-ready mapping, independent of its order."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def array_path(folder: Path, name: str, key: Mapping[str, Any]) -> Path:
    """The file in which `stored_array` keeps the array of a key."""
    return folder / f"{name}-{key_digest(key)[:16]}.npy"


def stored_array(
    folder: Path,
    name: str,
    key: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: str,
    block: int,
    compute: Compute,
) -> np.ndarray:
    """Opens the array of a key; computes the blocks that are missing.

    Args:
        folder: folder of the arrays.
        name: beginning of the file's name.
        key: everything the values depend on; JSON-ready.
        shape: shape of the array, rows first.
        dtype: its NumPy type.
        block: rows to compute, check and save at a time.
        compute: from (start, stop) to rows [start, stop), of shape [stop - start, ...].

    Returns:
        Read-only memory map of the given shape and dtype.

    Raises:
        UserError: if the disk has no room for the array.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = array_path(folder, name, key)
    with _lock(path):
        _compute_missing(path, name, key, shape, dtype, block, compute)
    return np.load(path, mmap_mode="r")


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Lets one process at a time write an array; a second run waits."""
    with path.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _compute_missing(
    path: Path,
    name: str,
    key: Mapping[str, Any],
    shape: tuple[int, ...],
    dtype: str,
    block: int,
    compute: Compute,
) -> None:
    checksums = _finished_blocks(path, key, shape, dtype, block)
    if not checksums:
        _reserve(path, name, shape, dtype)
    starts = [start for start in range(0, shape[0], block) if str(start) not in checksums]
    if starts:
        missing = sum(min(block, shape[0] - start) for start in starts)
        size = path.stat().st_size / 1e6
        free = shutil.disk_usage(path.parent).free / 1e6
        logging.info(
            "%s: computing %d of %d rows; %.1f MB on disk, %.0f MB free beside it",
            *(name, missing, shape[0], size, free),
        )
        _compute_blocks(path, key, starts, block, checksums, compute)


def _reserve(path: Path, name: str, shape: tuple[int, ...], dtype: str) -> None:
    """Makes an empty file of the full size and reserves its disk space."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    _require_disk(path.parent, size, name)
    try:
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
        _fill_holes(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{name} takes {size / 1e6:.1f} MB in {path.parent}, which cannot be reserved "
            f"({error}); give a --cache_dir on a larger disk."
        ) from error


def _fill_holes(path: Path) -> None:
    """Allocates the blocks of a sparse file: a full disk would kill the process later (SIGBUS)."""
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (
                errno.EINVAL,
                errno.EOPNOTSUPP,
            ):  # not supported by the file system
                raise


def _compute_blocks(
    path: Path,
    key: Mapping[str, Any],
    starts: list[int],
    block: int,
    checksums: dict[str, int],
    compute: Compute,
) -> None:
    array = np.load(path, mmap_mode="r+")
    for done, start in enumerate(starts, start=1):
        stop = min(start + block, len(array))
        array[start:stop] = compute(start, stop)
        array.flush()
        checksums[str(start)] = _checksum(array[start:stop])
        record = {"key": dict(key), "block": block, "checksums": checksums}
        write_atomically(path.with_suffix(".json"), json.dumps(record).encode())
        if done % max(1, len(starts) // 10) == 0:
            logging.info("%s: %d of %d blocks", path.stem, done, len(starts))


def _finished_blocks(
    path: Path, key: Mapping[str, Any], shape: tuple[int, ...], dtype: str, block: int
) -> dict[str, int]:
    """Checksums of the intact blocks on disk; empty if there is no usable file."""
    record_path = path.with_suffix(".json")
    if not (path.exists() and record_path.exists()):
        return {}
    try:
        record = json.loads(record_path.read_text())
        array = np.load(path, mmap_mode="r")
        usable = array.shape == shape and array.dtype == dtype and record["block"] == block
        # The file's name has only 16 digits of the key's digest.
        same = key_digest(record["key"]) == key_digest(key)
        checksums = record["checksums"] if usable and same else {}
        intact = {
            start: checksum
            for start, checksum in checksums.items()
            if _checksum(array[int(start) : int(start) + block]) == checksum
        }
    # What NumPy raises, and JSON of other contents.
    except (ValueError, KeyError, EOFError, TypeError, AttributeError) as error:
        logging.warning("%s is damaged (%s) and is computed again.", path, error)
        return {}
    if len(intact) < len(checksums):
        damaged = len(checksums) - len(intact)
        logging.warning("%s: %d damaged block(s) are computed again.", path, damaged)
    return intact


def _checksum(rows: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data)


def _require_disk(folder: Path, size: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > 0.95 * free:
        raise UserError(
            f"{name} takes {size / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free; "
            "give a --cache_dir on a larger disk."
        )

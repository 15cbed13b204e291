"""Large arrays on disk that are computed once, block by block, and never used when stale.

    features = stored_array(
        folder, name="features", key={"teacher": ..., "resolution": 160},
        shape=(12000, 1280), dtype="float16", block=256, compute=lambda start, stop: ...,
    )

The array is a memory-mapped .npy file; beside it stands its manifest, a JSON file with the key it
was computed from and a checksum of each finished block. An interrupted computation goes on after
its last finished block, a block whose checksum is wrong is computed again, and another key is
another file. No more than a block is in memory while it is computed.
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
    """SHA-256 over a JSON-ready mapping, independent of its order."""
    return hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()


def array_path(folder: Path, name: str, key: Mapping[str, Any]) -> Path:
    """Where `stored_array` keeps the array of a key."""
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
    """Opens the array that `key` stands for, computing what of it is not there yet.

    Args:
        folder: where arrays are kept.
        name: beginning of the file's name, for people who look into the folder.
        key: everything the values depend on; JSON-ready.
        shape: shape of the array, rows first.
        dtype: its NumPy type.
        block: rows to compute, check and keep at a time.
        compute: gives rows [start, stop) as an array of shape [stop - start, ...].

    Returns:
        Read-only memory map of the given shape and dtype.

    Raises:
        UserError: where the disk is too full for the array.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = array_path(folder, name, key)
    with _one_process(path):
        _complete(path, name, key, shape, dtype, block, compute)
    return np.load(path, mmap_mode="r")


@contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Keeps two runs that share a cache from writing one array at once; the second waits."""
    with path.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _complete(
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
    """Makes an empty file of the full size, of which the disk has promised every byte."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    _require_disk(path.parent, size, name)
    try:
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape).flush()
        _fill_holes(path)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise UserError(
            f"{name} takes {size / 1e6:.1f} MB in {path.parent}, which cannot be had there "
            f"({error}); give a --cache_dir on a larger disk."
        ) from error


def _fill_holes(path: Path) -> None:
    """A hole that finds no room when it is written to would kill the process (SIGBUS)."""
    with path.open("r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, path.stat().st_size)
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.EOPNOTSUPP):  # unknown to the file system
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
    """Checksums of the blocks on disk that are whole; none where there is no usable file."""
    record_path = path.with_suffix(".json")
    if not (path.exists() and record_path.exists()):
        return {}
    try:
        record = json.loads(record_path.read_text())
        array = np.load(path, mmap_mode="r")
        usable = array.shape == shape and array.dtype == dtype and record["block"] == block
        # The file's name is a part of the key's digest: here is the whole of it.
        same = key_digest(record["key"]) == key_digest(key)
        checksums = record["checksums"] if usable and same else {}
        whole = {
            start: checksum
            for start, checksum in checksums.items()
            if _checksum(array[int(start) : int(start) + block]) == checksum
        }
    # What NumPy and JSON that is not ours raise.
    except (ValueError, KeyError, EOFError, TypeError, AttributeError) as error:
        logging.warning("%s is damaged (%s) and is computed again.", path, error)
        return {}
    if len(whole) < len(checksums):
        damaged = len(checksums) - len(whole)
        logging.warning("%s: %d damaged block(s) are computed again.", path, damaged)
    return whole


def _checksum(rows: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data)


def _require_disk(folder: Path, size: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > 0.95 * free:
        raise UserError(
            f"{name} takes {size / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free; "
            "give a --cache_dir on a larger disk."
        )

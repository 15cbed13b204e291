"""Large arrays on disk, computed once, block by block, and never used when stale.

    features = stored_array(
        folder, name="features", key={"teacher": ..., "resolution": 160},
        shape=(12000, 1280), dtype="float16", block=256, compute=lambda start, stop: ...,
    )

The array is a memory-mapped .npy file. Its manifest, a JSON file beside it, has the key it was
computed from and a checksum of each finished block. An interrupted computation resumes after its
last finished block. A block with a wrong checksum is computed again. Another key is another file.
At most one block is in memory while it is computed.

Any number of processes, on any number of machines that share the folder, compute an array together:
each takes a block that nobody has locked, and all return when every block is there. A lock ends
with its process, so that what a killed one was computing is computed by another. The locks are
those of POSIX on the block's bytes in the file itself: where the folder is on NFS, its clients then
write out and read again what others share. A file system without locks costs work done twice.
"""

import errno
import fcntl
import hashlib
import json
import math
import os
import shutil
import time
import zlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
from absl import logging

from candle_tf.errors import UserError
from candle_tf.files import parse_json, write_atomically
from candle_tf.progress import Progress

Compute = Callable[[int, int], np.ndarray]
IsCurrent = Callable[[int, np.ndarray], bool]
CheckRows = Callable[[np.ndarray, np.ndarray], None]

# Seconds after which blocks that others compute are asked for again.
_WAIT = 0.2
# Places at which two successive rows are checked.
_CHECKED_PLACES = 4


@dataclass(frozen=True)
class Shard:
    """One of several equal ranges of an array's blocks.

    Attributes:
        number: of this one, from 1.
        count: how many there are.
    """

    number: int
    count: int

    def blocks(self, total: int) -> range:
        """The blocks, of so many in all, that are this shard's."""
        return range(total * (self.number - 1) // self.count, total * self.number // self.count)


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
    dtype: str | np.dtype,
    block: int | Sequence[int],
    compute: Compute,
    shard: Shard | None = None,
    is_current: IsCurrent | None = None,
    check: CheckRows | None = None,
    unit: str = "rows",
) -> np.ndarray:
    """Opens the array of a key; computes the blocks that are missing, together with others.

    Args:
        folder: folder of the arrays.
        name: beginning of the file's name.
        key: everything the values depend on; JSON-ready.
        shape: shape of the array, rows first.
        dtype: its NumPy type.
        block: rows to compute, check and save at a time; or the first row of each block, where
            blocks differ in length.
        compute: from (start, stop) to rows [start, stop), of shape [stop - start, ...].
        shard: computes the blocks of this shard alone; rows of other shards may be missing then.
        is_current: from the first row of a block that was finished before, and its rows, to whether
            they are used; those that are not are computed again. None uses all.
        check: of the numbers of at most eight rows that were finished before, int64 [B], and these
            rows; what it raises is raised before anything is computed. None checks nothing.
        unit: what a row is, in the plural, for messages.

    Returns:
        Read-only memory map of the given shape and dtype.

    Raises:
        UserError: if the disk has no room for the array.
    """
    folder.mkdir(parents=True, exist_ok=True)
    array = _SharedArray(array_path(folder, name, key), key, shape, np.dtype(dtype), block)
    array.open(name)
    if is_current is not None:
        array.forget_blocks(is_current)
    if check is not None:
        array.check_some_rows(check)
    starts = array.starts
    chosen = starts if shard is None else [starts[place] for place in shard.blocks(len(starts))]
    array.compute(name, chosen, compute, unit)
    return np.load(array.path, mmap_mode="r")


@dataclass
class _SharedArray:
    """An array that several processes may be computing.

    Attributes:
        path: of the .npy file.
        key, shape, dtype, block: of `stored_array`.
        finished: checksums of the blocks that are known to be finished, by their first row.
    """

    path: Path
    key: Mapping[str, Any]
    shape: tuple[int, ...]
    dtype: np.dtype
    block: int | Sequence[int]

    def __post_init__(self) -> None:
        self.finished: dict[str, int] = {}

    @cached_property
    def starts(self) -> Sequence[int]:
        """The first row of each block."""
        if isinstance(self.block, int):
            return range(0, self.shape[0], self.block)
        return [int(start) for start in self.block]

    @cached_property
    def _division(self) -> int | str:
        """How rows are divided into blocks, as manifests say it."""
        if isinstance(self.block, int):
            return self.block
        return hashlib.sha256(json.dumps(self.starts).encode()).hexdigest()

    def open(self, name: str) -> None:
        """Finds the intact blocks; makes the file where there is none that can be used."""
        with self._manifest_lock():
            recorded = self._read_manifest()
            if recorded is not None and not _has_shape(self.path, self.shape, self.dtype):
                logging.warning("%s is damaged (cut off) and is computed again.", self.path)
                recorded = None
            self.finished = {} if recorded is None else self._intact(recorded)
            if recorded is None:
                _reserve(self.path, name, self.shape, self.dtype)
                self._write_manifest()
            elif len(self.finished) < len(recorded):
                damaged = len(recorded) - len(self.finished)
                logging.warning("%s: %d damaged block(s) are computed again.", self.path, damaged)
                self._write_manifest()

    def forget_blocks(self, is_current: IsCurrent) -> None:
        """Makes finished blocks that are not to be used missing ones."""
        array = np.load(self.path, mmap_mode="r")
        outdated = {
            start: checksum
            for start, checksum in self.finished.items()
            if not is_current(int(start), array[int(start) : self._stop(int(start))])
        }
        if not outdated:
            return
        with self._manifest_lock():
            recorded = self._read_manifest() or {}
            # Another process may have computed some of them again meanwhile.
            self.finished = {
                start: checksum
                for start, checksum in recorded.items()
                if outdated.get(start) != checksum
            }
            self._write_manifest()

    def check_some_rows(self, check: CheckRows) -> None:
        """Checks pairs of successive rows, spread evenly over the finished blocks."""
        starts = np.sort(np.array([int(start) for start in self.finished], np.int64))
        lengths = np.array([self._stop(start) - start for start in starts.tolist()], np.int64)
        if not lengths.sum():
            return
        ends = np.cumsum(lengths)
        first = np.linspace(0, max(0, ends[-1] - 2), _CHECKED_PLACES).astype(np.int64)
        places = np.unique(np.minimum(np.concatenate([first, first + 1]), ends[-1] - 1))
        blocks = np.searchsorted(ends, places, side="right")
        rows = starts[blocks] + places - (ends - lengths)[blocks]
        check(rows, np.array(np.load(self.path, mmap_mode="r")[rows]))

    def compute(self, name: str, starts: Sequence[int], compute: Compute, unit: str) -> None:
        """Computes blocks until all are finished, by this process or by others."""
        missing = [start for start in starts if str(start) not in self.finished]
        if not missing:
            return
        rows = sum(self._stop(start) - start for start in missing)
        logging.info(
            "%s: computing %d of %d %s; %.1f MB on disk, %.0f MB free beside it",
            name,
            rows,
            self.shape[0],
            unit,
            self.path.stat().st_size / 1e6,
            shutil.disk_usage(self.path.parent).free / 1e6,
        )
        waiting = False
        with self.path.open("r+b") as file, Progress(name, rows, unit) as progress:
            while missing:
                for start in missing:
                    if self._compute_block(file, start, compute):
                        progress.advance(self._stop(start) - start)
                missing = [start for start in missing if str(start) not in self.finished]
                if missing and not waiting:
                    waiting = True
                    logging.info("%s: others compute the last %d blocks", name, len(missing))
                if missing:
                    time.sleep(_WAIT)

    def _compute_block(self, file: IO[bytes], start: int, compute: Compute) -> bool:
        """Computes one block, unless it is finished or another process is at it."""
        if str(start) in self.finished:
            return False
        row = self.dtype.itemsize * int(np.prod(self.shape[1:]))
        stop = self._stop(start)
        # Opening the array itself, which NumPy does, would free the lock: see `_lock_bytes`.
        begin = self.path.stat().st_size - (self.shape[0] - start) * row
        with _lock_bytes(file, begin, max(1, (stop - start) * row)) as mine:
            if not mine:
                return False
            self._refresh()
            if str(start) in self.finished:
                return False
            rows = np.ascontiguousarray(compute(start, stop), self.dtype)
            if rows.shape != (stop - start, *self.shape[1:]):
                raise ValueError(f"rows of shape {rows.shape} for {start}..{stop} of {self.shape}")
            _write(file, begin, rows)
            with self._manifest_lock():
                self.finished = {**(self._read_manifest() or {}), str(start): _checksum(rows)}
                self._write_manifest()
        return True

    def _stop(self, start: int) -> int:
        following = bisect_right(self.starts, start)
        return self.starts[following] if following < len(self.starts) else self.shape[0]

    def _refresh(self) -> None:
        with self._manifest_lock():
            self.finished = self._read_manifest() or {}

    @contextmanager
    def _manifest_lock(self) -> Iterator[None]:
        """One process at a time reads the manifest and writes it again."""
        with self.path.with_suffix(".lock").open("a+b") as file, _lock_bytes(file, 0, 1, wait=True):
            yield

    def _read_manifest(self) -> dict[str, int] | None:
        """Checksums of the finished blocks; None if there is no manifest of this very array."""
        manifest = self.path.with_suffix(".json")
        if not (self.path.exists() and manifest.exists()):
            return None
        try:
            record = parse_json(manifest.read_bytes())
            # The file's name has only 16 digits of the key's digest.
            same = key_digest(record["key"]) == key_digest(self.key)
            if not same or record["block"] != self._division:
                return None
            return {str(int(start)): int(value) for start, value in record["checksums"].items()}
        # Whatever a manifest of other contents raises: a cache can be computed again.
        except Exception as error:
            logging.warning("%s is damaged (%s) and is computed again.", self.path, error)
            return None

    def _write_manifest(self) -> None:
        record = {"key": dict(self.key), "block": self._division, "checksums": self.finished}
        write_atomically(self.path.with_suffix(".json"), json.dumps(record).encode())

    def _intact(self, checksums: Mapping[str, int]) -> dict[str, int]:
        array = np.load(self.path, mmap_mode="r")
        return {
            start: checksum
            for start, checksum in checksums.items()
            if _checksum(array[int(start) : self._stop(int(start))]) == checksum
        }


@contextmanager
def _lock_bytes(file: IO[bytes], begin: int, length: int, wait: bool = False) -> Iterator[bool]:
    """Locks bytes of an open file against other processes; gives whether it has them.

    True too where the file system has no locks. Closing any handle of the file in this process
    frees the lock, so nothing else may open the file meanwhile.
    """
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), length, begin)
    except (BlockingIOError, PermissionError):
        yield False
        return
    except OSError:
        yield True
        return
    try:
        yield True
    finally:
        fcntl.lockf(file, fcntl.LOCK_UN, length, begin)


def _has_shape(path: Path, shape: tuple[int, ...], dtype: np.dtype) -> bool:
    """Whether a file is a whole array of this shape and type."""
    try:
        array = np.load(path, mmap_mode="r")
    # Whatever NumPy raises, the file is no array, or is damaged.
    except Exception:
        return False
    # Rows are written in C order, up to the end of the file.
    is_whole = array.flags.c_contiguous and array.offset + array.nbytes == path.stat().st_size
    return is_whole and array.shape == shape and array.dtype == dtype


def _reserve(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype) -> None:
    """Makes an empty file of the full size and reserves its disk space.

    A file of the same size stays, as another process may be writing into it.
    """
    size = math.prod(shape) * dtype.itemsize
    try:
        if _has_shape(path, shape, dtype):
            _fill_holes(path)
            return
        _require_disk(path.parent, size, name)
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


def _write(file: IO[bytes], begin: int, rows: np.ndarray) -> None:
    """Writes rows at a place of the file, through to the disk."""
    data = rows.reshape(-1).view(np.uint8).data
    try:
        while data:
            written = os.pwrite(file.fileno(), data, begin)
            data, begin = data[written:], begin + written
        os.fsync(file.fileno())
    except OSError as error:
        raise UserError(
            f"{file.name} cannot be written ({error}). Make room, or give another --cache_dir, and "
            "run the same command again: it resumes."
        ) from error


def _checksum(rows: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data)


def _require_disk(folder: Path, size: int, name: str) -> None:
    free = shutil.disk_usage(folder).free
    if size > 0.95 * free:
        raise UserError(
            f"{name} takes {size / 1e6:.0f} MB in {folder}, where {free / 1e6:.0f} MB are free; "
            "give a --cache_dir on a larger disk."
        )

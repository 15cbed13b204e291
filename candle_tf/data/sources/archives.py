"""ZIP and TAR archives of images, read in place.

    tree = open_tree(Path("images.tar"))

Members are listed once and read from the archive; no file is created under a member's name. A
compressed TAR has no random access. It is unpacked when it is opened, into a temporary file without
a name that is deleted when the process ends; for large data sets use a plain TAR or a ZIP. Links
and other members that are not files are skipped with a warning.
"""

import bz2
import gzip
import lzma
import os
import shutil
import stat
import tarfile
import tempfile
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from absl import logging

from candle_tf.data.sources.file_tree import (
    FileTree,
    canonical_name,
    check_size,
    folder_tree,
    is_image,
    is_visible,
    refuse_repeats,
)
from candle_tf.data.sources.source import format_names
from candle_tf.errors import UserError

# Folders with these names that contain folders are subsets, never the archive's top folder.
SUBSET_FOLDERS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})

_KINDS = "ZIP or TAR file (.zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz)"
# What the standard library raises on damaged archives and on compression it does not support.
_DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    OSError,
    EOFError,
    UnicodeDecodeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
)
# Images hardly compress. A large member that grows more than this is a decompression bomb.
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 2**24

# First bytes of compressed files, and what reads them.
_DECOMPRESSORS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


def open_tree(path: Path, advice: str = "", scratch: str = "") -> FileTree:
    """Opens a folder or an archive.

    Args:
        path: A folder, or a ZIP or TAR file, recognised by its contents and not by its name.
        advice: What is expected there, added to error messages.
        scratch: See `SourceConfig`.

    Raises:
        UserError: If it does not exist, is damaged, or has members whose names leave it.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist. {advice}".strip())
    if path.is_dir():
        return folder_tree(path)
    try:
        with path.open("rb") as file:
            magic = file.read(6)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if magic.startswith(b"PK"):
        return _zip_tree(path, advice)
    for beginning, opener in _DECOMPRESSORS.items():
        if magic.startswith(beginning):
            return _tar_tree(path, _unpack(path, opener, advice, scratch), advice)
    return _tar_tree(path, path.open("rb"), advice)


def _damage_error(path: Path, error: object, advice: str) -> UserError:
    return UserError(
        f"{path}: neither a folder nor a whole {_KINDS}: {error}. "
        f"Fetch or pack it again. {advice}".strip()
    )


# --- ZIP


def _zip_tree(path: Path, advice: str) -> FileTree:
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise _damage_error(path, error, advice) from error
    names = _Members(str(path))
    try:
        for member in archive.infolist():
            # Some Windows packers write backslashes.
            name = member.filename.replace("\\", "/")
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                names.skip(member.filename)
            elif names.add(name, name.endswith("/"), member) and member.flag_bits & 0x1:
                raise UserError(
                    f"{path}: the member {member.filename!r} is encrypted. Pack without a password."
                )
        names.finish()
    except BaseException:
        archive.close()
        raise
    # ZipFile locks each read, but not its count of open members.
    lock = threading.Lock()

    def read(member: zipfile.ZipInfo) -> bytes:
        origin = f"{path}: {member.filename}"
        check_size(member.file_size, origin)
        _check_ratio(member.file_size, member.compress_size, origin)
        try:
            with lock:
                return archive.read(member)
        except _DAMAGE as error:
            raise UserError(
                f"{path}: the member {member.filename!r} cannot be unpacked ({error}). "
                "Fetch or pack the file again."
            ) from error

    return names.tree(read, lambda m: f"{m.file_size} {m.CRC}", archive.close)


# --- TAR


def _tar_tree(path: Path, file: IO[bytes], advice: str) -> FileTree:
    names = _Members(str(path))
    try:
        _list_tar(path, file, names, advice)
        names.finish()
        size = os.fstat(file.fileno()).st_size
        state = path.stat()
    except BaseException:
        file.close()
        raise
    changed = state.st_mtime_ns

    def read(member: tuple[int, int]) -> bytes:
        start, length = member
        check_size(length, str(path))
        if file.closed:
            raise ValueError(f"{path} is closed")
        data = os.pread(file.fileno(), length, start)  # no shared position, so it is thread-safe
        if len(data) != length:
            raise UserError(f"{path}: cut short since it was opened ({size:,} bytes then).")
        return data

    return names.tree(read, lambda m: f"{m[0]} {m[1]} {changed}", file.close)


def _list_tar(path: Path, file: IO[bytes], names: "_Members", advice: str) -> None:
    try:
        # Only headers are read; nothing is extracted.
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or it keeps every header in memory
                if member.isdir():
                    names.add(member.name, True, None)
                elif member.isreg() and not member.issparse():
                    names.add(member.name, False, (member.offset_data, member.size))
                else:
                    names.skip(member.name)
            end = archive.offset
        file.seek(end)
        # tarfile treats a damaged header, and a file cut between members, as the end.
        if file.read(512) != bytes(512):
            raise tarfile.ReadError(f"no member and no end of the archive at byte {end:,}")
    except (*_DAMAGE, ValueError) as error:
        raise _damage_error(path, error, advice) from error


def _unpack(path: Path, opener: Callable[[Path], Any], advice: str, scratch: str) -> IO[bytes]:
    """Unpacks a TAR into a temporary file without a name, so that no file can be left behind."""
    packed = path.stat().st_size
    logging.info(
        "%s: unpacking %.0f MB to a temporary file, again at each start; a plain TAR or a ZIP is "
        "read in place",
        path,
        packed / 1e6,
    )
    folder = scratch or tempfile.gettempdir()
    Path(folder).mkdir(parents=True, exist_ok=True)
    plain = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
    try:
        with opener(path) as stream:
            size = 0
            while block := _read_block(stream, path, advice):
                size += len(block)
                _check_ratio(size, packed, str(path))
                plain.write(block)
        plain.seek(0)  # also flushes
    except OSError as error:
        plain.close()
        free = shutil.disk_usage(folder).free
        raise UserError(
            f"{path}: unpacking failed ({error}); {free / 1e6:,.0f} MB are free in {folder}."
        ) from error
    except BaseException:
        plain.close()
        raise
    return plain


def _read_block(stream: Any, path: Path, advice: str) -> bytes:
    try:
        return stream.read(2**20)
    except _DAMAGE as error:
        raise _damage_error(path, error, advice) from error


def _check_ratio(size: int, packed: int, origin: str) -> None:
    if size > _RATIO_FREE_BYTES and size > _MAX_RATIO * packed:
        raise UserError(
            f"{origin}: {packed:,} packed bytes grow to {size:,} or more, over {_MAX_RATIO} times "
            "as many, which no image does. Take it out, or pack it again."
        )


# --- Names of members


class _Members:
    """Collects the visible members of an archive; refuses names that leave it."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._names: list[str] = []
        self._handles: list[Any] = []
        self._folders: set[str] = set()
        self._skipped: list[str] = []

    def add(self, raw: str, is_folder: bool, handle: object) -> bool:
        """Adds a member. Returns False if it is hidden or left by a file manager."""
        name = canonical_name(raw)
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
            raise UserError(
                f"{self._path}: the member {raw!r} has an absolute name or one with '..'. "
                "Pack the images again with relative names."
            )
        if not parts or not all(map(is_visible, parts)):
            return False
        depth = len(parts) if is_folder else len(parts) - 1
        self._folders.update("/".join(parts[:d]) for d in range(1, depth + 1))
        if not is_folder:
            self._names.append("/".join(parts))
            self._handles.append(handle)
        return True

    def skip(self, name: str) -> None:
        """Notes a member that is not a file."""
        self._skipped.append(name)

    def finish(self) -> None:
        """Checks for repeated names and warns of skipped members."""
        refuse_repeats(self._names, self._path)
        if self._skipped:
            logging.warning(
                "%s: %d links or special files skipped: %s",
                self._path,
                len(self._skipped),
                format_names(self._skipped),
            )

    def tree(
        self,
        read: Callable[[Any], bytes],
        change_token: Callable[[Any], str],
        close: Callable[[], None],
    ) -> FileTree:
        """Makes a tree of the members; `read` and `change_token` take a member's handle."""
        # An archive of a folder has everything below that one folder.
        top = _top_folder(self._names, self._folders)
        names = tuple(name.removeprefix(top) for name in self._names)
        handles = dict(zip(names, self._handles, strict=True))
        return FileTree(
            self._path,
            names,
            frozenset(name.removeprefix(top) for name in self._folders if name + "/" != top),
            lambda name: read(handles[name]),
            lambda name: change_token(handles[name]),
            close,
        )


def _top_folder(files: Iterable[str], folders: Iterable[str]) -> str:
    """The one folder that contains all images, as "name/", or ""."""
    tops = {name.partition("/")[0] for name in folders}
    tops |= {name.partition("/")[0] for name in files if is_image(name)}
    if len(tops) != 1:
        return ""
    top = tops.pop()
    has_folders = any(name.startswith(top + "/") for name in folders)
    return f"{top}/" if has_folders and top.casefold() not in SUBSET_FOLDERS else ""

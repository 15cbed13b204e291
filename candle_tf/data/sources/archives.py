"""ZIP and TAR archives of images, read in place.

    tree = open_tree(Path("images.tar"))

Members are listed once and read where they lie; no file is ever made from a member's name. A
compressed TAR has no way to begin in the middle, so it is unpacked once, when it is opened, into a
temporary file that has no name and goes with the process; for large sets a plain TAR or a ZIP is
better. Links and other members that are not files are passed over, with a warning.
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
    Tree,
    canonical,
    check_size,
    folder_tree,
    is_image,
    is_visible,
    refuse_repeated,
)
from candle_tf.data.sources.source import listing
from candle_tf.errors import UserError

# Folders of these names that hold folders are parts of a data set, never a wrapping folder.
PARTS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})

_KINDS = "ZIP or TAR file (.zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz)"
# What the standard library raises on damaged archives and on ways of packing it does not know.
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
# Images hardly compress; what grows more than this when unpacked is a bomb. Small members may.
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 2**24

# How compressed files begin, and what reads them.
_PACKED: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


def open_tree(path: Path, advice: str = "", scratch: str = "") -> Tree:
    """Lists a folder or an archive.

    Args:
        path: A folder, or a ZIP or TAR file, told by its contents and not by its name.
        advice: What should be there, added to messages.
        scratch: See `Place`.

    Raises:
        UserError: If there is no such thing, or it is damaged, or names lead out of it.
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
    for beginning, opener in _PACKED.items():
        if magic.startswith(beginning):
            return _tar_tree(path, _unpack(path, opener, advice, scratch), advice)
    return _tar_tree(path, path.open("rb"), advice)


def _not_whole(path: Path, error: object, advice: str) -> UserError:
    return UserError(
        f"{path}: neither a folder nor a whole {_KINDS}: {error}. "
        f"Fetch or pack it again. {advice}".strip()
    )


# --- ZIP


def _zip_tree(path: Path, advice: str) -> Tree:
    try:
        archive = zipfile.ZipFile(path)
    except _DAMAGE as error:
        raise _not_whole(path, error, advice) from error
    names = _Members(str(path))
    try:
        for member in archive.infolist():
            # Some Windows packers write backslashes.
            name = member.filename.replace("\\", "/")
            kind = stat.S_IFMT(member.external_attr >> 16)
            if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
                names.pass_over(member.filename)
            elif names.add(name, name.endswith("/"), member) and member.flag_bits & 0x1:
                raise UserError(
                    f"{path}: the member {member.filename!r} is encrypted. Pack without a password."
                )
        names.finish()
    except BaseException:
        archive.close()
        raise
    # ZipFile locks each read, but not the count of open members that decides when it closes.
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


def _tar_tree(path: Path, file: IO[bytes], advice: str) -> Tree:
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
        data = os.pread(file.fileno(), length, start)  # no shared position: threads do not meet
        if len(data) != length:
            raise UserError(f"{path}: cut short since it was opened ({size:,} bytes then).")
        return data

    return names.tree(read, lambda m: f"{m[0]} {m[1]} {changed}", file.close)


def _list_tar(path: Path, file: IO[bytes], names: "_Members", advice: str) -> None:
    try:
        # Never asked to extract: only headers are read here.
        with tarfile.open(fileobj=file, mode="r:") as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # else it keeps every header
                if member.isdir():
                    names.add(member.name, True, None)
                elif member.isreg() and not member.issparse():
                    names.add(member.name, False, (member.offset_data, member.size))
                else:
                    names.pass_over(member.name)
            end = archive.offset
        file.seek(end)
        # tarfile takes a damaged header, and a file cut between members, for the end.
        if file.read(512) != bytes(512):
            raise tarfile.ReadError(f"no member and no end of the archive at byte {end:,}")
    except (*_DAMAGE, ValueError) as error:
        raise _not_whole(path, error, advice) from error


def _unpack(path: Path, opener: Callable[[Path], Any], advice: str, scratch: str) -> IO[bytes]:
    """The uncompressed TAR in a file that has no name, so that nothing of it can be left."""
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
        raise _not_whole(path, error, advice) from error


def _check_ratio(size: int, packed: int, origin: str) -> None:
    if size > _RATIO_FREE_BYTES and size > _MAX_RATIO * packed:
        raise UserError(
            f"{origin}: {packed:,} packed bytes grow to {size:,} or more, over {_MAX_RATIO} times "
            "as many, which no image does. Take it out, or pack it again."
        )


# --- Names of members


class _Members:
    """Collects the visible members of an archive; refuses names that lead out of it."""

    def __init__(self, place: str) -> None:
        self._place = place
        self._names: list[str] = []
        self._handles: list[Any] = []
        self._folders: set[str] = set()
        self._passed_over: list[str] = []

    def add(self, raw: str, is_folder: bool, handle: object) -> bool:
        """Takes a member in; False if it is hidden or a file manager's."""
        name = canonical(raw)
        parts = PurePosixPath(name).parts
        if name.startswith("/") or ".." in parts or (parts and parts[0].endswith(":")):
            raise UserError(
                f"{self._place}: the member {raw!r} has an absolute name or one with '..'. "
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

    def pass_over(self, name: str) -> None:
        """Counts a member that is no file."""
        self._passed_over.append(name)

    def finish(self) -> None:
        """Checks the whole."""
        refuse_repeated(self._names, self._place)
        if self._passed_over:
            logging.warning(
                "%s: %d links or special files passed over: %s",
                self._place,
                len(self._passed_over),
                listing(self._passed_over),
            )

    def tree(
        self,
        read: Callable[[Any], bytes],
        stamp: Callable[[Any], str],
        close: Callable[[], None],
    ) -> Tree:
        """The members as a tree; `read` and `stamp` take a member's handle."""
        # Archives made by packing a folder have all in that one folder.
        top = _wrapping_folder(self._names, self._folders)
        names = tuple(name.removeprefix(top) for name in self._names)
        handles = dict(zip(names, self._handles, strict=True))
        return Tree(
            self._place,
            names,
            frozenset(name.removeprefix(top) for name in self._folders if name + "/" != top),
            lambda name: read(handles[name]),
            lambda name: stamp(handles[name]),
            close,
        )


def _wrapping_folder(files: Iterable[str], folders: Iterable[str]) -> str:
    """The folder that all images lie in, as "name/", or ""."""
    tops = {name.partition("/")[0] for name in folders}
    tops |= {name.partition("/")[0] for name in files if is_image(name)}
    if len(tops) != 1:
        return ""
    top = tops.pop()
    has_folders = any(name.startswith(top + "/") for name in folders)
    return f"{top}/" if has_folders and top.casefold() not in PARTS else ""

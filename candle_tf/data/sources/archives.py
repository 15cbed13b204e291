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
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import IO, Any

from absl import logging

from candle_tf.data.sources.file_tree import (
    FileTree,
    canonical_name,
    check_ratio,
    check_size,
    folder_tree,
    is_visible,
    leads_out,
    refuse_repeats,
)
from candle_tf.data.sources.source import format_names
from candle_tf.data.sources.zip_members import read_member
from candle_tf.errors import UserError

_KINDS = "ZIP or TAR file (.zip, .tar, .tar.gz, .tgz, .tar.bz2 or .tar.xz)"
# What the standard library raises on damaged archives and on compression it does not support.
DAMAGE = (
    zipfile.BadZipFile,
    tarfile.TarError,
    OSError,
    EOFError,
    UnicodeDecodeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
)

# Bit of a ZIP member's flags: its name is UTF-8.
_UTF8_FLAG = 0x800
# Of names in archives that do not say it, by how often they are met.
_ENCODINGS = ("cp932", "gbk", "cp949", "big5", "cp1251", "cp1252", "cp850", "cp437")

# First bytes of compressed files, and what reads them.
_DECOMPRESSORS: dict[bytes, Callable[[Path], Any]] = {
    b"\x1f\x8b": gzip.GzipFile,
    b"BZh": bz2.BZ2File,
    b"\xfd7zXZ\0": lzma.LZMAFile,
}


# First bytes of a ZIP: of a member, of an archive without any, and of one packed in one piece by a
# packer of several pieces. "PK" alone begins names, and a TAR begins with the name of a member.
_ZIP = (b"PK\x03\x04", b"PK\x05\x06", b"PK\x07\x08", b"PK00PK\x03\x04")
# Where a TAR says that it is one.
_TAR_MAGIC = slice(257, 262)


def open_tree(path: Path, advice: str = "", scratch: str = "", encoding: str = "") -> FileTree:
    """Opens a folder or an archive. Names are those on disk or in the archive.

    Args:
        path: A folder, or a ZIP or TAR file, recognised by its contents and not by its name.
        advice: What is expected there, added to error messages.
        scratch: See `SourceConfig`.
        encoding: Of the names in an archive that does not say it; see `archive_encoding` of
            `SourceConfig`.

    Raises:
        UserError: If it does not exist, is damaged, or has members whose names leave it or are in
            an unknown encoding.
    """
    if not path.exists():
        raise UserError(f"{path} does not exist. {advice}".strip())
    if path.is_dir():
        return folder_tree(path)
    try:
        with path.open("rb") as file:
            start = file.read(_TAR_MAGIC.stop)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}).") from error
    if not _is_tar(start):
        if start.startswith(_ZIP):
            return _zip_tree(path, advice, encoding)
        for beginning, opener in _DECOMPRESSORS.items():
            if start.startswith(beginning):
                return _tar_tree(path, _unpack(path, opener, advice, scratch), advice, encoding)
    return _tar_tree(path, path.open("rb"), advice, encoding)


def is_archive(path: Path) -> bool:
    """Whether a file begins as one of the kinds that `open_tree` opens does."""
    with path.open("rb") as file:
        start = file.read(_TAR_MAGIC.stop)
    return start.startswith((*_ZIP, *_DECOMPRESSORS)) or _is_tar(start)


def _is_tar(start: bytes) -> bool:
    """Whether a file that begins so says that it is a TAR; very old ones say nothing."""
    return start[_TAR_MAGIC] == b"ustar"


def _damage_error(path: Path, error: object, advice: str) -> UserError:
    return UserError(
        f"{path}: neither a folder nor a whole {_KINDS}: {error}. "
        f"Fetch or pack it again. {advice}".strip()
    )


# --- ZIP


def _zip_tree(path: Path, advice: str, encoding: str) -> FileTree:
    try:
        archive = zipfile.ZipFile(path)
    except DAMAGE as error:
        raise _damage_error(path, error, advice) from error
    names = _Members(str(path))
    try:
        members = archive.infolist()
        decode = _zip_decoder(path, members, encoding)
        for member in members:
            # Some Windows packers write backslashes.
            name = decode(member).replace("\\", "/")
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
        try:
            with lock:
                return read_member(archive, member, f"{path}: {member.filename}")
        except DAMAGE as error:
            raise UserError(
                f"{path}: the member {member.filename!r} cannot be unpacked ({error}). "
                "Fetch or pack the file again."
            ) from error

    return names.tree(read, lambda m: f"{m.file_size} {m.CRC}", archive.close)


def _zip_decoder(
    path: Path, members: list[zipfile.ZipInfo], encoding: str
) -> Callable[[zipfile.ZipInfo], str]:
    """How the members' names are read.

    A ZIP says of a name that it is UTF-8, or nothing. Then old packers wrote the encoding of their
    machine. Names that are valid UTF-8 are UTF-8; others are never guessed, as classes could merge.
    """
    unknown = [raw for member in members if (raw := _raw_name(member)) and not raw.isascii()]
    if not encoding and unknown:
        for raw in unknown:
            if _decode(raw, "utf-8") is None:
                raise UserError(
                    f"{path}: the member {raw!r} has a name in an unknown encoding. "
                    f"{_encoding_advice(unknown)}"
                )
    chosen = encoding or "utf-8"

    def decode(member: zipfile.ZipInfo) -> str:
        raw = _raw_name(member)
        if raw is None:
            return member.filename
        name = _decode(raw, chosen)
        if name is None:
            raise UserError(
                f"{path}: the name {raw!r} is not valid in --archive_encoding={encoding}. "
                f"{_encoding_advice(unknown)}"
            )
        return name

    return decode


def _raw_name(member: zipfile.ZipInfo) -> bytes | None:
    """The bytes of a name; None if the archive says that it is UTF-8."""
    if member.flag_bits & _UTF8_FLAG:
        return None
    try:
        return member.filename.encode("cp437")  # zipfile decodes with it, one character per byte
    except UnicodeEncodeError:
        return None  # from the extra field of Unicode names


def _decode(raw: bytes, encoding: str) -> str | None:
    try:
        name = raw.decode(encoding)
    except (UnicodeDecodeError, LookupError):
        return None
    return name if raw.isascii() or name.isprintable() else None


def _encoding_advice(names: list[bytes]) -> str:
    """The usual encodings that can read all names, with an example of each."""
    example = max(names, key=len)
    fitting = {
        encoding: _decode(example, encoding)
        for encoding in _ENCODINGS
        if all(_decode(raw, encoding) is not None for raw in names)
    }
    shown = "; ".join(f"{encoding}: {name!r}" for encoding, name in fitting.items())
    return (
        "Give --archive_encoding, or pack the images again with names in UTF-8."
        f"{f' Read by the usual encodings, {example!r} is {shown}.' if shown else ''}"
    )


# --- TAR


def _tar_tree(path: Path, file: IO[bytes], advice: str, encoding: str) -> FileTree:
    names = _Members(str(path))
    try:
        _list_tar(path, file, names, advice, encoding)
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


def _list_tar(path: Path, file: IO[bytes], names: "_Members", advice: str, encoding: str) -> None:
    try:
        # Only headers are read; nothing is extracted.
        with tarfile.open(fileobj=file, mode="r:", encoding=encoding or "utf-8") as archive:
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
    except (*DAMAGE, ValueError, OverflowError) as error:
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
                check_ratio(size, packed, str(path))
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
    except DAMAGE as error:
        raise _damage_error(path, error, advice) from error


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
        name = self._canonical(raw)
        parts = PurePosixPath(name).parts
        if leads_out("/".join(parts)):
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

    def _canonical(self, raw: str) -> str:
        try:
            return canonical_name(raw, self._path)
        except UserError as error:
            name = raw.encode("utf-8", "surrogateescape")
            raise UserError(
                f"{self._path}: the member {name!r} has a name in an unknown encoding. "
                f"{_encoding_advice([name])}"
            ) from error

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
        handles = dict(zip(self._names, self._handles, strict=True))
        return FileTree(
            self._path,
            tuple(self._names),
            frozenset(self._folders),
            lambda name: read(handles[name]),
            lambda name: change_token(handles[name]),
            close,
        )

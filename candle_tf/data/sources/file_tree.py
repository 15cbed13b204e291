"""The visible files of a folder or an archive, by relative path; no path can leave it.

    tree = folder_tree(Path("images"))
    tree.read(tree.files[0])

`candle_tf.data.sources.archives.open_tree` opens folders and archives alike.
"""

import os
import re
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from absl import logging

from candle_tf.data.images.decode import decode_image
from candle_tf.data.sources.source import NO_IMAGES, LabelledImages, Source, find_repeats
from candle_tf.errors import UserError

EXTENSIONS = (
    ".jpg", ".jpeg", ".jfif", ".png", ".webp", ".bmp", ".gif", ".heic", ".heif", ".avif",
)  # fmt: skip

# Left by file managers and packers. Names that start with a dot are skipped too.
_JUNK = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir"})
# Of Windows, as in C:/images; other colons are characters of a name.
_DRIVE = re.compile("[A-Za-z]:(/|$)")
# A larger file is a defect or an attack.
MAX_FILE_BYTES = 2**28
# Images hardly compress. A large member that grows more than this is a decompression bomb.
_MAX_RATIO = 200
_RATIO_FREE_BYTES = 2**24


@dataclass(frozen=True, eq=False)
class FileTree:
    """The visible files of a folder or an archive, by relative POSIX path in Unicode's NFC.

    See `folder_tree` of names that are not UTF-8.

    Attributes:
        path: Its path, for messages.
        files: Paths of the files, including links to files.
        folders: Paths of the folders, including empty ones.
        read: From a file's path to its bytes. Thread-safe.
        change_token: From a file's path to a text that changes with its contents.
        close: Closes what `read` holds open.
        top: Where this tree is below `path`: a folder's path that ends with "/", or "".
    """

    path: str
    files: tuple[str, ...]
    folders: frozenset[str]
    read: Callable[[str], bytes]
    change_token: Callable[[str], str]
    close: Callable[[], None]
    top: str = ""


def tree_source(
    name: str, class_names: tuple[str, ...], subsets: Mapping[str, LabelledImages], tree: FileTree
) -> Source:
    """Makes a data set whose images are files of a tree; ids are their paths.

    Args:
        name: Of the data set.
        class_names: C names.
        subsets: Where there are any, "train", "test" and "validation".
        tree: Closed with the data set.
    """

    def read(image_id: str) -> np.ndarray:
        return decode_image(tree.read(image_id), f"{tree.path}: {image_id}")

    return Source(
        name,
        class_names,
        subsets.get("train", NO_IMAGES),
        subsets.get("test"),
        read,
        tree.change_token,
        tree.close,
        validation=subsets.get("validation"),
        encoded=tree.read,
    )


def below(tree: FileTree, top: str) -> FileTree:
    """The files below a folder of a tree, by their paths from there.

    Args:
        tree: Closed with the new one.
        top: Path of the folder, which ends with "/"; "" for the whole tree.
    """
    if not top:
        return tree
    return FileTree(
        tree.path,
        tuple(name.removeprefix(top) for name in tree.files if name.startswith(top)),
        frozenset(name.removeprefix(top) for name in tree.folders if name.startswith(top)),
        lambda name: tree.read(top + name),
        lambda name: tree.change_token(top + name),
        tree.close,
        tree.top + top,
    )


def wrapping_folder(tree: FileTree) -> str:
    """The one folder that contains all images and folders of a tree, as "name/", or ""."""
    tops = {name.partition("/")[0] for name in tree.folders}
    tops |= {name.partition("/")[0] for name in tree.files if is_image(name)}
    if len(tops) != 1:
        return ""
    top = tops.pop()
    return f"{top}/" if top in tree.folders else ""


def find_on_disk(root: Path, name: str) -> Path:
    """The path of a file whose name is known in NFC; on disk it may be in any Unicode form.

    Returns:
        The path that exists, or else `root / name`.
    """
    given = root / name
    if name.isascii() or os.path.lexists(given):
        return given
    found = root
    for part in name.split("/"):
        if not part.isascii() and not os.path.lexists(found / part):
            found /= _spellings(str(found)).get(part, part)
        else:
            found /= part
    return found


@lru_cache(maxsize=64)
def _spellings(folder: str) -> dict[str, str]:
    """The entries of a folder whose names are not NFC, by their name in NFC."""
    try:
        names = os.listdir(folder)
    except OSError:
        return {}
    return {nfc: name for name in names if (nfc := unicodedata.normalize("NFC", name)) != name}


def folder_tree(root: Path, any_bytes: bool = False) -> FileTree:
    """Lists a folder. Links are followed, except in circles.

    Args:
        root: The folder.
        any_bytes: Whether names that are not UTF-8 are kept, as Python spells them on this machine
            (`os.fsdecode`). They are no ids of a data set, which are the same everywhere.

    Raises:
        UserError: If a folder cannot be listed, two names are the same in NFC, or one is not UTF-8
            and `any_bytes` is not set.
    """
    files: list[str] = []
    folders: set[str] = set()
    on_disk: dict[str, str] = {}  # names that are not NFC on disk
    try:
        for spelling, is_folder in _walk(str(root)):
            keeps = any_bytes and not is_utf8(spelling)
            name = spelling if keeps else canonical_name(spelling, str(root))
            if name != spelling:
                on_disk[name] = spelling
            if is_folder:
                folders.add(name)
            else:
                files.append(name)
    except OSError as error:
        raise UserError(
            f"{root}: cannot be listed ({error.strerror or error}). Check the folder's rights, "
            "and the length of its paths."
        ) from error
    refuse_repeats(files, str(root))
    known = frozenset(files)

    def path_of(name: str) -> Path:
        if name not in known:
            raise KeyError(name)
        return root / on_disk.get(name, name)

    return FileTree(
        str(root),
        tuple(files),
        frozenset(folders),
        lambda name: read_file(path_of(name)),
        lambda name: file_change_token(path_of(name)),
        lambda: None,
    )


def _walk(root: str) -> Iterator[tuple[str, bool]]:
    """Yields (path relative to root, whether it is a folder) of all visible entries, in order."""
    state = os.stat(root)
    # Of each folder that is being listed: its path, what remains of it, and its identity.
    open_folders = [("", _entries(root), (state.st_dev, state.st_ino))]
    while open_folders:
        folder, entries, _ = open_folders[-1]
        entry = next(entries, None)
        if entry is None:
            open_folders.pop()
            continue
        name = f"{folder}/{entry.name}" if folder else entry.name
        try:
            state = entry.stat()
        except OSError:
            if not entry.is_symlink():
                raise
            # A link to nothing or to itself. Reading it raises an error that names it.
            yield name, False
            continue
        if stat.S_ISREG(state.st_mode):
            yield name, False
        if not stat.S_ISDIR(state.st_mode):
            continue
        identity = (state.st_dev, state.st_ino)
        if any(identity == above for *_, above in open_folders):
            logging.warning("%s is a link to a folder that contains it: skipped", entry.path)
            continue
        yield name, True
        open_folders.append((name, _entries(entry.path), identity))


def _entries(path: str) -> Iterator[os.DirEntry[str]]:
    """The visible entries of a folder, by name."""
    with os.scandir(path) as entries:
        return iter(sorted((e for e in entries if is_visible(e.name)), key=lambda e: e.name))


def read_file(path: Path) -> bytes:
    """Reads the bytes of an image on disk.

    Raises:
        UserError: If it is gone, cannot be read, or is too large for an image.
    """
    with _name_file_in_errors(path):
        check_size(path.stat().st_size, str(path))
        return path.read_bytes()


def file_change_token(path: Path) -> str:
    """Size and modification time of a file.

    Raises:
        UserError: If it is gone.
    """
    with _name_file_in_errors(path):
        state = path.stat()
        return f"{state.st_size} {state.st_mtime_ns}"


@contextmanager
def _name_file_in_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{path}: cannot be read ({reason}). Restore the file, or start again without it."
        ) from error


def refuse_repeats(names: list[str], origin: str) -> None:
    """Checks that no two files have the same name.

    Raises:
        UserError: Names the first such name.
    """
    if twice := find_repeats(names):
        raise UserError(
            f"{origin}: two files are named {twice[0]!r}. Rename or remove one of them."
        )


def leads_out(path: str) -> bool:
    """Whether a path with "/" does not stay in its folder: absolute, with a drive or with ".."."""
    return path.startswith("/") or ".." in path.split("/") or _DRIVE.match(path) is not None


def is_utf8(name: str) -> bool:
    """Whether a name is text: Python has stand-ins for bytes on disk that are not UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def canonical_name(name: str, origin: str) -> str:
    """A name in NFC, the same on every machine: macOS writes accents with other code points.

    Args:
        name: Of a file or a folder, or a path of them.
        origin: Where it is, for the message.

    Raises:
        UserError: If the name is not valid UTF-8.
    """
    if name.isascii():
        return name
    if not is_utf8(name):
        raise UserError(f"{origin}: the file name {name!r} is not valid UTF-8. Rename the file.")
    return unicodedata.normalize("NFC", name)


def check_size(size: int, origin: str) -> None:
    """Checks that a file is not too large for an image.

    Raises:
        UserError: If it has more than `MAX_FILE_BYTES`.
    """
    if size > MAX_FILE_BYTES:
        raise UserError(
            f"{origin}: {size:,} bytes are more than the {MAX_FILE_BYTES:,} an image may have. "
            "Make it smaller or take it out of the data set."
        )


def check_ratio(size: int, packed: int, origin: str) -> None:
    """Checks that what an archive packed is no decompression bomb.

    Raises:
        UserError: If it grows to more than 2**24 bytes and `_MAX_RATIO` times as many.
    """
    if size > _RATIO_FREE_BYTES and size > _MAX_RATIO * packed:
        raise UserError(
            f"{origin}: {packed:,} packed bytes grow to {size:,} or more, over {_MAX_RATIO} times "
            "as many, which no image does. Take it out, or pack it again."
        )


def is_visible(name: str) -> bool:
    """Whether a file or folder name is neither hidden nor left by a file manager."""
    return not name.startswith(".") and name.casefold() not in _JUNK


def is_image(name: str) -> bool:
    """Whether a name has the extension of an image."""
    return name.lower().endswith(EXTENSIONS)

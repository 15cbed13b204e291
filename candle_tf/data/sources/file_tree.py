"""The visible files of a folder or an archive, by relative name; nothing outside can be named.

    tree = folder_tree(Path("images"))
    tree.read(tree.files[0])

`candle_tf.data.sources.archives` makes trees of archives.
"""

import os
import stat
import unicodedata
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from absl import logging

from candle_tf.data.images.decode import decode_image
from candle_tf.data.sources.source import Partition, Source, repeated
from candle_tf.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")

# Left by file managers and packers; names that start with a dot are passed over as well.
_JUNK = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir"})
# An image that is larger when unpacked is a defect or an attack.
MAX_FILE_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Tree:
    """The visible files of a folder or an archive, by relative POSIX path in Unicode's NFC.

    Attributes:
        place: Its path, for messages.
        files: Names of files, links to files included.
        folders: Names of folders, the empty ones too.
        read: From a file's name to its bytes; may be called from several threads at once.
        stamp: From a file's name to a text that changes with its contents.
        close: Frees what `read` holds.
    """

    place: str
    files: tuple[str, ...]
    folders: frozenset[str]
    read: Callable[[str], bytes]
    stamp: Callable[[str], str]
    close: Callable[[], None]


def tree_source(
    name: str, class_names: tuple[str, ...], parts: Mapping[str, Partition], tree: Tree
) -> Source:
    """A data set whose images are files of a tree; ids are their names.

    Args:
        name: Of the data set.
        class_names: C names.
        parts: "train" and, where there are any, "test" and "validation".
        tree: Is closed with the data set.
    """

    def read(image_id: str) -> np.ndarray:
        return decode_image(tree.read(image_id), f"{tree.place}: {image_id}")

    return Source(
        name,
        class_names,
        parts["train"],
        parts.get("test"),
        read,
        tree.stamp,
        tree.close,
        validation=parts.get("validation"),
        encoded=tree.read,
    )


def folder_tree(root: Path) -> Tree:
    """Lists a folder. Links are followed, loops of links are not.

    Raises:
        UserError: If a folder cannot be listed, or two names are the same in NFC.
    """
    files: list[str] = []
    folders: set[str] = set()
    spelled: dict[str, str] = {}  # of names that are not NFC on disk
    try:
        for spelling, is_folder in _walk(str(root), "", frozenset()):
            name = canonical(spelling)
            if name != spelling:
                spelled[name] = spelling
            if is_folder:
                folders.add(name)
            else:
                files.append(name)
    except OSError as error:
        raise UserError(
            f"{root}: cannot be listed ({error}). Check the folder's rights."
        ) from error
    refuse_repeated(files, str(root))
    known = frozenset(files)

    def path_of(name: str) -> Path:
        if name not in known:
            raise KeyError(name)
        return root / spelled.get(name, name)

    return Tree(
        str(root),
        tuple(files),
        frozenset(folders),
        lambda name: read_file(path_of(name)),
        lambda name: stamp_of_file(path_of(name)),
        lambda: None,
    )


def _walk(root: str, folder: str, above: frozenset[str]) -> Iterator[tuple[str, bool]]:
    """(name relative to root, is a folder) of all that is visible, in order."""
    path = os.path.join(root, folder)
    above |= {os.path.realpath(path)}
    with os.scandir(path) as entries:
        found = sorted((e for e in entries if is_visible(e.name)), key=lambda e: e.name)
    for entry in found:
        name = f"{folder}/{entry.name}" if folder else entry.name
        try:
            mode = entry.stat().st_mode
        except OSError:
            if not entry.is_symlink():
                raise
            # A link to nothing or to itself: reading it will name it.
            yield name, False
            continue
        if stat.S_ISDIR(mode) and os.path.realpath(entry.path) in above:
            logging.warning("%s is a link to a folder it lies in: passed over", entry.path)
        elif stat.S_ISDIR(mode):
            yield name, True
            yield from _walk(root, name, above)
        elif stat.S_ISREG(mode):
            yield name, False


def read_file(path: Path) -> bytes:
    """The bytes of an image on disk.

    Raises:
        UserError: If it is gone, cannot be read, or is too large for an image.
    """
    with _named_failure(path):
        check_size(path.stat().st_size, str(path))
        return path.read_bytes()


def stamp_of_file(path: Path) -> str:
    """Size and time of change of a file.

    Raises:
        UserError: If it is gone.
    """
    with _named_failure(path):
        state = path.stat()
        return f"{state.st_size} {state.st_mtime_ns}"


@contextmanager
def _named_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"{path}: cannot be read ({reason}). Restore the file, or start again without it."
        ) from error


def refuse_repeated(names: list[str], place: str) -> None:
    """Refuses two files of one name.

    Raises:
        UserError: Names the first such name.
    """
    if twice := repeated(names):
        raise UserError(f"{place}: two files are named {twice[0]!r}. Rename or remove one of them.")


def canonical(name: str) -> str:
    """The same name on every machine: macOS spells accents with other code points.

    Raises:
        UserError: If the name is not valid UTF-8.
    """
    if name.isascii():
        return name
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"The file name {name!r} is not valid UTF-8. Rename the file.") from error
    return unicodedata.normalize("NFC", name)


def check_size(size: int, origin: str) -> None:
    """Refuses a file that is too large for an image.

    Raises:
        UserError: If it has more than `MAX_FILE_BYTES`.
    """
    if size > MAX_FILE_BYTES:
        raise UserError(
            f"{origin}: {size:,} bytes are more than the {MAX_FILE_BYTES:,} an image may have. "
            "Make it smaller or take it out of the data set."
        )


def is_visible(part: str) -> bool:
    """Whether a file or folder name is neither hidden nor left by a file manager."""
    return not part.startswith(".") and part.casefold() not in _JUNK


def is_image(name: str) -> bool:
    """Whether a name has the extension of an image."""
    return name.lower().endswith(EXTENSIONS)

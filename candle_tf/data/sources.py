"""Data sets: which pictures there are, their classes, and how to read one.

    with open_source("folder", "caltech101.zip") as source:
        source.class_names[source.train.labels[0]]        # "Faces"
        source.read_image(source.train.ids[0])            # uint8 (H, W, 3)

A new kind of data set is one function in `_SOURCES`; a new kind of archive is one function that
returns a `_Tree`.
"""

import hashlib
import lzma
import os
import stat
import threading
import unicodedata
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from types import TracebackType
from typing import Any

import numpy as np
from absl import logging

from candle_tf.data.decode import decode_image
from candle_tf.errors import UserError

EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif")

_LAYOUT = (
    "Expected, in a folder or a .zip file, train/<class>/<picture> and test/<class>/<picture>, "
    f"or <class>/<picture>, with pictures named *{', *'.join(EXTENSIONS)}."
)
# Left by file managers and packers; names that start with a dot are passed over as well.
_JUNK = frozenset({"__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir"})
# Folders of these names that hold folders are parts of a data set, never classes.
_PARTS = frozenset({"train", "training", "test", "testing", "val", "valid", "validation"})
# What zipfile raises on damaged archives and on ways of packing that it does not know.
_ZIP_DAMAGE = (
    zipfile.BadZipFile,
    OSError,
    EOFError,
    UnicodeDecodeError,
    NotImplementedError,
    zlib.error,
    lzma.LZMAError,
)
# A picture that is larger when unpacked is a defect or an attack.
_MAX_FILE_BYTES = 2**28


@dataclass(frozen=True, eq=False)
class Partition:
    """One part of a data set, e.g. its training pictures.

    Attributes:
        ids: N unique names, the same on every machine, e.g. "train/cat/0.jpg".
        labels: int32 (N,), class indices >= 0; read-only.
    """

    ids: tuple[str, ...]
    labels: np.ndarray

    def __post_init__(self) -> None:
        labels = np.array(self.labels, np.int32)
        if labels.shape != (len(self.ids),):
            raise ValueError(f"{len(self.ids)} ids, but labels of shape {labels.shape}")
        if len(set(self.ids)) != len(self.ids):
            raise ValueError("ids are not unique")
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)


@dataclass(frozen=True, eq=False)
class Source:
    """An open data set. Close it, or use it in a `with` statement.

    Attributes:
        name: Its name in the table of data sets, e.g. "folder".
        class_names: C names; a label is an index into them.
        train: Pictures to learn from.
        test: Pictures to test on, or None if the data set does not set any apart.
        reader: From an id to uint8 (H, W, 3); may be called from several threads at once.
        stamp: From an id to a text that changes with the picture's contents, without decoding it.
        close: Frees what the reader holds; no picture can be read afterwards.
    """

    name: str
    class_names: tuple[str, ...]
    train: Partition
    test: Partition | None
    reader: Callable[[str], np.ndarray]
    stamp: Callable[[str], str]
    close: Callable[[], None] = lambda: None

    def read_image(self, image_id: str) -> np.ndarray:
        """One picture, uint8 (H, W, 3) RGB. Safe to call from several threads.

        Raises:
            UserError: If the picture cannot be read or decoded.
            KeyError: If the source has no such id.
        """
        return self.reader(image_id)

    def content_hash(self, ids: Iterable[str]) -> str:
        """SHA-256 (hex) over ids, in order, and contents: a key for caches of decoded pictures.

        Contents are told by checksum in a ZIP, and by size and time of change in a folder; so the
        same pictures have another hash after copying, and a cache is filled again.

        Raises:
            UserError: If a picture is gone.
            KeyError: If the source has no such id.
        """
        digest = hashlib.sha256()
        for image_id in ids:
            digest.update(f"{image_id}\0{self.stamp(image_id)}\0".encode())
        return digest.hexdigest()

    def __enter__(self) -> "Source":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def open_source(dataset: str, data_dir: str) -> Source:
    """Opens a data set.

    Args:
        dataset: One of `DATASETS`. "digits" is scikit-learn's 1,797 scans of 8x8 pixels, without
            a test part. "folder" is pictures in a folder or a .zip file: train/<class>/* and
            test/<class>/*, or <class>/* without a test part.
        data_dir: The folder or .zip file; "digits" does not need it.

    Raises:
        UserError: If the data set is unknown, or is not laid out as expected.
    """
    if dataset not in _SOURCES:
        raise UserError(f"Unknown data set {dataset!r}: choose one of {', '.join(DATASETS)}.")
    return _SOURCES[dataset](data_dir)


def _open_digits(data_dir: str) -> Source:
    del data_dir
    # Imported here: it takes seconds, and no other data set needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 0..16 to 0..255.
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    ids = tuple(f"digits/{i:05d}" for i in range(len(pixels)))
    index = {image_id: i for i, image_id in enumerate(ids)}

    def read(image_id: str) -> np.ndarray:
        return np.repeat(pixels[index[image_id]][..., np.newaxis], 3, axis=-1)

    def stamp(image_id: str) -> str:
        return pixels[index[image_id]].tobytes().hex()

    names = tuple(str(name) for name in digits.target_names)
    return Source("digits", names, Partition(ids, digits.target), None, read, stamp)


def _open_folder(data_dir: str) -> Source:
    if not data_dir:
        raise UserError(f"The data set 'folder' needs the path of the pictures. {_LAYOUT}")
    path = Path(data_dir).expanduser()
    if not path.exists():
        raise UserError(f"{path} does not exist. {_LAYOUT}")
    tree = _folder_tree(path) if path.is_dir() else _zip_tree(path)
    try:
        return _arrange(tree)
    except BaseException:
        tree.close()
        raise


_SOURCES: dict[str, Callable[[str], Source]] = {"digits": _open_digits, "folder": _open_folder}
DATASETS = tuple(_SOURCES)


# --- Folders and archives as trees of names


@dataclass(frozen=True, eq=False)
class _Tree:
    """The visible files of a folder or an archive, by relative POSIX path."""

    place: str
    files: tuple[str, ...]
    folders: frozenset[str]  # with the empty ones
    read: Callable[[str], bytes]
    stamp: Callable[[str], str]
    close: Callable[[], None]


def _folder_tree(root: Path) -> _Tree:
    files: dict[str, Path] = {}
    folders: set[str] = set()
    try:
        for name, path, is_folder in _walk(root, PurePosixPath(), frozenset()):
            if is_folder:
                folders.add(name)
            else:
                _add(files, name, path, str(root))
    except OSError as error:
        raise UserError(
            f"{root}: cannot be listed ({error}). Check the folder's rights."
        ) from error

    def read(name: str) -> bytes:
        with _named_failure(files[name]):
            _check_size(files[name].stat().st_size, str(files[name]))
            return files[name].read_bytes()

    def stamp(name: str) -> str:
        with _named_failure(files[name]):
            state = files[name].stat()
            return f"{state.st_size} {state.st_mtime_ns}"

    return _Tree(str(root), tuple(files), frozenset(folders), read, stamp, lambda: None)


@contextmanager
def _named_failure(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path}: cannot be read ({error}). Restore the file, or start anew without it."
        ) from error


def _walk(
    folder: Path, name: PurePosixPath, above: frozenset[str]
) -> Iterator[tuple[str, Path, bool]]:
    """(relative name, path, is a folder) of all that is visible; links are followed, not loops."""
    above |= {os.path.realpath(folder)}
    for path in sorted(folder.iterdir()):
        inner = name / path.name
        if not _visible(path.name):
            continue
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode) and os.path.realpath(path) in above:
            logging.warning("%s is a link to a folder it lies in: passed over", path)
        elif stat.S_ISDIR(mode):
            yield _canonical(str(inner)), path, True
            yield from _walk(path, inner, above)
        elif stat.S_ISREG(mode):
            yield _canonical(str(inner)), path, False


def _zip_tree(path: Path) -> _Tree:
    try:
        archive = zipfile.ZipFile(path)
    except _ZIP_DAMAGE as error:
        raise UserError(
            f"{path}: neither a folder nor a whole ZIP file ({error}). "
            f"Fetch or pack it again. {_LAYOUT}"
        ) from error
    try:
        files, folders = _members(archive, str(path))
    except BaseException:
        archive.close()
        raise
    # ZipFile locks each read, but not the count of open members that decides when it closes.
    lock = threading.Lock()

    def read(name: str) -> bytes:
        member = files[name]
        _check_size(member.file_size, f"{path}: {member.filename}")
        try:
            with lock:
                return archive.read(member)
        except _ZIP_DAMAGE as error:
            raise UserError(
                f"{path}: the member {member.filename!r} cannot be unpacked ({error}). "
                "Fetch or pack the file again."
            ) from error

    # Archives made by packing a folder have all in that one folder.
    top = _wrapping_folder(files, folders)
    return _Tree(
        str(path),
        tuple(name.removeprefix(top) for name in files),
        frozenset(name.removeprefix(top) for name in folders if name + "/" != top),
        lambda name: read(top + name),
        lambda name: f"{files[top + name].file_size} {files[top + name].CRC}",
        archive.close,
    )


def _members(
    archive: zipfile.ZipFile, place: str
) -> tuple[dict[str, zipfile.ZipInfo], frozenset[str]]:
    """The visible files of a ZIP, and all folders; refuses names that lead out of it."""
    files: dict[str, zipfile.ZipInfo] = {}
    folders: set[str] = set()
    for member in archive.infolist():
        # Some Windows packers write backslashes.
        name = _canonical(member.filename.replace("\\", "/"))
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or parts[0].endswith(":"):
            raise UserError(
                f"{place}: the member {member.filename!r} has an absolute name or one with '..'. "
                "Pack the pictures again with relative names."
            )
        if member.flag_bits & 0x1:
            raise UserError(
                f"{place}: the member {member.filename!r} is encrypted. Pack without a password."
            )
        if not all(map(_visible, parts)):
            continue
        depth = len(parts) if name.endswith("/") else len(parts) - 1
        folders.update("/".join(parts[:d]) for d in range(1, depth + 1))
        if not name.endswith("/"):
            _add(files, "/".join(parts), member, place)
    return files, frozenset(folders)


def _wrapping_folder(files: Iterable[str], folders: frozenset[str]) -> str:
    """The folder that all pictures lie in, as "name/", or ""."""
    tops = {name.partition("/")[0] for name in folders}
    tops |= {name.partition("/")[0] for name in files if _is_picture(name)}
    if len(tops) != 1:
        return ""
    top = tops.pop()
    has_folders = any(name.startswith(top + "/") for name in folders)
    return f"{top}/" if has_folders and top.casefold() not in _PARTS else ""


def _add(files: dict[str, Any], name: str, handle: object, place: str) -> None:
    if name in files:
        raise UserError(f"{place}: two files are named {name!r}. Rename or remove one of them.")
    files[name] = handle


def _canonical(name: str) -> str:
    """The same name on every machine: macOS spells accents with other code points."""
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise UserError(f"The file name {name!r} is not valid UTF-8. Rename the file.") from error
    return unicodedata.normalize("NFC", name)


def _check_size(size: int, origin: str) -> None:
    if size > _MAX_FILE_BYTES:
        raise UserError(
            f"{origin}: {size:,} bytes are more than the {_MAX_FILE_BYTES:,} a picture may have. "
            "Make it smaller or take it out of the data set."
        )


def _visible(part: str) -> bool:
    return not part.startswith(".") and part.casefold() not in _JUNK


def _is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in EXTENSIONS


# --- From a tree to classes


def _arrange(tree: _Tree) -> Source:
    """Finds parts and classes in a tree's names; says what it passes over."""
    pictures = [name for name in tree.files if _is_picture(name)]
    if len(pictures) < len(tree.files):
        logging.warning("%s: %s passed over", tree.place, _other_files(tree))
    if not pictures:
        raise UserError(f"{tree.place}: no pictures found, but {_found(tree)}. {_LAYOUT}")
    train_prefix, test_prefix = _part_prefixes(tree, pictures)
    by_class = _classes(tree, pictures, train_prefix)
    if len(by_class) < 2:
        raise UserError(
            f"{tree.place}: {len(by_class)} class folders with pictures where at least 2 are "
            f"needed; found {_found(tree)}. {_LAYOUT}"
        )
    class_names = tuple(sorted(by_class))
    train = _partition(by_class, class_names)
    test = None
    if test_prefix is not None:
        test_by_class = _classes(tree, pictures, test_prefix)
        _compare_classes(tree, class_names, test_by_class)
        test = _partition(test_by_class, class_names)
    outside = set(pictures).difference(train.ids, test.ids if test else ())
    if outside:
        logging.warning(
            "%s: %d pictures outside the class folders passed over, e.g. %s",
            tree.place,
            len(outside),
            min(outside),
        )

    def read(image_id: str) -> np.ndarray:
        return decode_image(tree.read(image_id), f"{tree.place}: {image_id}")

    return Source("folder", class_names, train, test, read, tree.stamp, tree.close)


def _part_prefixes(tree: _Tree, pictures: list[str]) -> tuple[str, str | None]:
    """The prefixes of the training and the test part; ("", None) for one level of classes."""
    tops = {name.partition("/")[0] for name in tree.folders}
    holding = {name.partition("/")[0] for name in pictures if "/" in name}
    # A class may be called "train" as well, but does not hold folders of pictures then.
    nested = {name.partition("/")[0] for name in pictures if name.count("/") > 1}
    parts = {top for top in nested if top.casefold() in _PARTS}
    if {"train", "test"} <= tops and "train" in parts:
        return "train/", "test/"
    if "train" in parts and holding == {"train"}:
        return "train/", None
    if parts:
        raise UserError(
            f"{tree.place}: folders {_list(parts)} look like parts of a data set, but are not "
            f"'train' and 'test'; found {_found(tree)}. {_LAYOUT}"
        )
    return "", None


def _classes(tree: _Tree, pictures: list[str], prefix: str) -> dict[str, list[str]]:
    """Ids by class below a prefix; refuses class folders without pictures."""
    depth = prefix.count("/")
    by_class: dict[str, list[str]] = {
        name.removeprefix(prefix): []
        for name in tree.folders
        if name.startswith(prefix) and name.count("/") == depth
    }
    for name in pictures:
        class_name, slash, _ = name.removeprefix(prefix).partition("/")
        if name.startswith(prefix) and slash:
            by_class[class_name].append(name)
    empty = [prefix + class_name for class_name, ids in by_class.items() if not ids]
    if empty:
        raise UserError(
            f"{tree.place}: no pictures in the class folder {_list(empty)}. "
            "Put pictures in, or remove the folder."
        )
    return by_class


def _compare_classes(
    tree: _Tree, class_names: tuple[str, ...], test_by_class: dict[str, list[str]]
) -> None:
    unknown = set(test_by_class).difference(class_names)
    if unknown:
        raise UserError(
            f"{tree.place}: test has the class {_list(unknown)}, which train lacks. "
            "Add it to train, or remove it from test."
        )
    if not test_by_class:
        raise UserError(f"{tree.place}: test holds no class folders. Fill or remove it. {_LAYOUT}")
    untested = set(class_names).difference(test_by_class)
    if untested:
        logging.warning(
            "%s: test lacks the class %s: it is learned, but not measured",
            tree.place,
            _list(untested),
        )


def _partition(by_class: dict[str, list[str]], class_names: tuple[str, ...]) -> Partition:
    """Ids by class, then by name, so that no order of a file system shows."""
    ids: list[str] = []
    labels: list[int] = []
    for label, class_name in enumerate(class_names):
        members = sorted(by_class.get(class_name, []))
        ids += members
        labels += [label] * len(members)
    return Partition(tuple(ids), np.array(labels, np.int32))


def _other_files(tree: _Tree) -> str:
    """E.g. "3 files that are not pictures (2 .txt, 1 .csv)"."""
    kinds = Counter(
        PurePosixPath(name).suffix.lower() or "without extension"
        for name in tree.files
        if not _is_picture(name)
    )
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    return f"{kinds.total()} files that are not pictures ({shown})" if kinds else "no other files"


def _found(tree: _Tree) -> str:
    tops = {name for name in tree.folders if "/" not in name}
    pictures = sum(map(_is_picture, tree.files))
    return (
        f"{f'folders {_list(tops)}' if tops else 'no folders'}, {pictures} pictures, "
        f"{_other_files(tree)}"
    )


def _list(names: Iterable[str]) -> str:
    """Names in order, quoted; the first ten of a long list."""
    names = sorted(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(repr(name) for name in names[:10]) + more

"""The interface of a data set: `SourceConfig` to open one, `Source`, and its `LabelledImages`.

`candle_tf.data.sources.registry.open_source` opens sources; each kind has a module beside it.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from candle_tf.errors import UserError

# Longer numbers are names.
_MAX_DIGITS = 18
# Images whose bytes tell data sets apart.
_SAMPLE = 8
_NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")


@dataclass(frozen=True)
class SourceConfig:
    """The data flags of a command line: what a source needs to be opened. Each kind uses some.

    Attributes:
        data_dir: "folder": a folder or archive of images; "list": what the lists' paths are
            relative to, a folder or archive; "fashion_mnist": a folder of IDX files; "tfds:...":
            the data folder of TensorFlow Datasets.
        train_list, test_list, validation_list: "list" alone: CSV, TSV or `<path> <label>` files.
        class_names: "list" alone: a file with the name of a class on each line, in label order.
        archive_encoding: Of the names in a ZIP or TAR that does not say it, e.g. "cp932" of a
            Japanese Windows; if empty, such names must be UTF-8.
        scratch: Folder for temporary files without names, in which compressed TARs are unpacked;
            the system's if empty.
        known_classes: A student's classes in the order of its scores, where the data are opened
            only to measure it: any number of classes from one up may have images, and no training
            subset is needed. Empty for a training.
    """

    data_dir: str = ""
    train_list: str = ""
    test_list: str = ""
    validation_list: str = ""
    class_names: str = ""
    archive_encoding: str = ""
    scratch: str = ""
    known_classes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """Ids and labels of one subset, e.g. of the training images.

    Attributes:
        ids: N unique names, the same on every machine, e.g. "train/cat/0.jpg".
        labels: int32 [N], class indices >= 0; read-only.
    """

    ids: tuple[str, ...]
    labels: np.ndarray

    def __post_init__(self) -> None:
        labels = np.array(self.labels, np.int32)
        if labels.shape != (len(self.ids),):
            raise ValueError(f"{len(self.ids)} ids, but labels of shape {labels.shape}")
        if find_repeats(self.ids):
            raise ValueError("ids are not unique")
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)


@dataclass(frozen=True, eq=False)
class Source:
    """An open data set. Close it, or use it in a `with` statement.

    Attributes:
        name: What it was opened as, e.g. "folder" or "tfds:caltech101".
        class_names: C names; a label is an index into them.
        train: Training images; every class has at least one, but where the data are only measured
            (`SourceConfig.known_classes`), which may have none.
        test: Test images, or None if the data set has no test subset.
        reader: From an id to uint8 [H, W, 3]. Thread-safe.
        change_token: From an id to a text that changes with the image's contents; decodes nothing.
        close: Frees what the reader holds; no image can be read afterwards.
        validation: Validation images of the data set itself, or None.
        encoded: From an id to the stored bytes, of a file or raw pixels. Thread-safe. None: the
            bytes of the pixels are taken.
    """

    name: str
    class_names: tuple[str, ...]
    train: LabelledImages
    test: LabelledImages | None
    reader: Callable[[str], np.ndarray]
    change_token: Callable[[str], str]
    close: Callable[[], None] = lambda: None
    validation: LabelledImages | None = None
    encoded: Callable[[str], bytes] | None = None

    def read_image(self, image_id: str) -> np.ndarray:
        """Reads one image, uint8 [H, W, 3], RGB. Thread-safe.

        Raises:
            UserError: If the image cannot be read or decoded, or the reader gives something else.
            KeyError: If the source has no such id.
        """
        image = self.reader(image_id)
        if (
            not isinstance(image, np.ndarray)
            or image.dtype != np.uint8
            or image.ndim != 3
            or image.shape[2] != 3
            or not image.size
        ):
            raise UserError(
                f"source {self.name!r}: the reader gave {_describe(image)} for {image_id!r}; asked "
                "is an array of dtype uint8, 0 to 255, and of shape [H, W, 3], RGB."
            )
        return image

    def read_bytes(self, image_id: str) -> bytes:
        """Reads one image as it is stored, not decoded. Thread-safe.

        Raises:
            UserError: If the image cannot be read.
            KeyError: If the source has no such id.
        """
        return self.encoded(image_id) if self.encoded else self.read_image(image_id).tobytes()

    def content_hash(self, ids: Iterable[str], missing: str | None = None) -> str:
        """SHA-256 (hex) over ids, in order, and contents: a key for caches of decoded images.

        Contents are compared by checksum in a ZIP, and by size and modification time elsewhere. So
        copied images have another hash, and a cache is computed again.

        Args:
            ids: Which images.
            missing: Replaces the change token of an image that is gone; None raises an error.

        Raises:
            UserError: If an image is gone and `missing` is None.
            KeyError: If the source has no such id.
        """
        digest = hashlib.sha256()
        for image_id in ids:
            try:
                change_token = self.change_token(image_id)
            except UserError:
                if missing is None:
                    raise
                change_token = missing
            digest.update(f"{image_id}\0{change_token}\0".encode())
        return digest.hexdigest()

    def sample_hash(self, ids: Sequence[str]) -> str:
        """SHA-256 (hex) over the stored bytes of at most eight images, spread evenly over the ids.

        With `content_hash` a key for caches that several data sets share: copies whose files have
        the same names, sizes and times, as of raw pixels, have other bytes. Of an image that cannot
        be read no bytes are taken.

        Raises:
            KeyError: If the source has no such id.
        """
        digest = hashlib.sha256()
        for image_id in ids[:: -(-len(ids) // _SAMPLE) or 1]:
            try:
                digest.update(hashlib.sha256(self.read_bytes(image_id)).digest())
            except UserError:
                digest.update(b"missing")
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


def _describe(image: object) -> str:
    if isinstance(image, np.ndarray):
        return f"an array of dtype {image.dtype} and shape {list(image.shape)}"
    return type(image).__name__


def find_repeats(names: Sequence[str]) -> list[str]:
    """Finds the names that occur more than once, in the order of their second occurrence.

    Needs 8 bytes per name if all differ, a tenth of what a set needs.
    """
    hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(names)))
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return []
    counts = Counter(name for name in names if hash(name) in suspects)
    return [name for name, count in counts.items() if count > 1]


# The training subset of data that have none, and are only measured.
NO_IMAGES = LabelledImages((), np.zeros(0, np.int32))


def require_every_class(labels: np.ndarray, class_names: Sequence[str], origin: str) -> None:
    """Checks that there are at least two classes, each with a training image.

    Args:
        labels: int [N] of the training subset.
        class_names: C names.
        origin: Where the labels came from, for the message.

    Raises:
        UserError: Names the classes.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if empty := [class_names[c] for c in np.flatnonzero(counts == 0)]:
        raise UserError(
            f"{origin}: no training images of the class {format_names(empty)}. Add some, or remove "
            "the class."
        )
    if len(class_names) < 2:
        count = len(class_names)
        raise UserError(
            f"{origin}: {count} class ({format_names(class_names)}) where at least 2 are needed."
        )


def require_one_line_names(class_names: Iterable[str]) -> None:
    """Checks what an export needs, which writes a class name per line, in UTF-8.

    Raises:
        UserError: Names the classes.
    """
    if wrong := [name for name in class_names if not _is_one_line(name)]:
        raise UserError(
            f"The class name {format_names(wrong)} is not one line of text in UTF-8, which an "
            "export needs: rename the class."
        )


def _is_one_line(name: str) -> bool:
    # Python stands in a surrogate for each byte of a file name that is not UTF-8.
    undecoded = any("\ud800" <= character <= "\udfff" for character in name)
    return name.splitlines() == [name] and not undecoded


def sort_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Class names in label order: numbers by value, before other names by code points."""

    def order(name: str) -> tuple[bool, float, str]:
        number = len(name) <= _MAX_DIGITS and _NUMBER.fullmatch(name) is not None
        return not number, float(name) if number else 0.0, name

    return tuple(sorted(names, key=order))


def format_names(names: Iterable[str]) -> str:
    """Sorted and quoted names, separated by commas; the first ten of a long list."""
    names = sorted(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(repr(name) for name in names[:10]) + more

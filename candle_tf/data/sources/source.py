"""What a data set is to the rest of the package: `Partition`, `Source`, and where it lies.

`candle_tf.data.sources.registry.open_source` opens sources; each kind has a module beside it.
"""

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType

import numpy as np

from candle_tf.errors import UserError


@dataclass(frozen=True)
class Place:
    """Where a data set lies: the data flags of a command line, of which a kind uses some.

    Attributes:
        data_dir: "folder": a folder or archive of images; "list": what the lists' paths are
            relative to, a folder or archive; "fashion_mnist": a folder of IDX files; "tfds:...":
            the data folder of TensorFlow Datasets.
        train_list, test_list, validation_list: "list" alone: CSV, TSV or `<path> <label>` files.
        class_names: "list" alone: a file with the name of a class on each line, in label order.
        scratch: Folder for temporary files without names, in which compressed TARs are unpacked;
            the system's if empty.
    """

    data_dir: str = ""
    train_list: str = ""
    test_list: str = ""
    validation_list: str = ""
    class_names: str = ""
    scratch: str = ""


@dataclass(frozen=True, eq=False)
class Partition:
    """One part of a data set, e.g. its training images.

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
        if repeated(self.ids):
            raise ValueError("ids are not unique")
        labels.setflags(write=False)
        object.__setattr__(self, "labels", labels)


@dataclass(frozen=True, eq=False)
class Source:
    """An open data set. Close it, or use it in a `with` statement.

    Attributes:
        name: What it was opened as, e.g. "folder" or "tfds:caltech101".
        class_names: C names; a label is an index into them.
        train: Images to learn from; every class has at least one.
        test: Images to test on, or None if the data set does not set any apart.
        reader: From an id to uint8 (H, W, 3); may be called from several threads at once.
        stamp: From an id to a text that changes with the image's contents, without decoding it.
        close: Frees what the reader holds; no image can be read afterwards.
        validation: The data set's own validation images, or None.
        encoded: From an id to the bytes that the image is stored as, a file's or raw pixels;
            may be called from several threads at once. None: there are none but the pixels.
    """

    name: str
    class_names: tuple[str, ...]
    train: Partition
    test: Partition | None
    reader: Callable[[str], np.ndarray]
    stamp: Callable[[str], str]
    close: Callable[[], None] = lambda: None
    validation: Partition | None = None
    encoded: Callable[[str], bytes] | None = None

    def read_image(self, image_id: str) -> np.ndarray:
        """One image, uint8 (H, W, 3) RGB. Safe to call from several threads.

        Raises:
            UserError: If the image cannot be read or decoded.
            KeyError: If the source has no such id.
        """
        return self.reader(image_id)

    def read_bytes(self, image_id: str) -> bytes:
        """One image as it is stored, not decoded. Safe to call from several threads.

        Raises:
            UserError: If the image cannot be read.
            KeyError: If the source has no such id.
        """
        return self.encoded(image_id) if self.encoded else self.reader(image_id).tobytes()

    def content_hash(self, ids: Iterable[str], missing: str | None = None) -> str:
        """SHA-256 (hex) over ids, in order, and contents: a key for caches of decoded images.

        Contents are told by checksum in a ZIP, and by size and time of change elsewhere; so the
        same images have another hash after copying, and a cache is filled again.

        Args:
            ids: Which images.
            missing: What stands for the contents of an image that is gone; None refuses it.

        Raises:
            UserError: If an image is gone and nothing stands for it.
            KeyError: If the source has no such id.
        """
        digest = hashlib.sha256()
        for image_id in ids:
            try:
                stamp = self.stamp(image_id)
            except UserError:
                if missing is None:
                    raise
                stamp = missing
            digest.update(f"{image_id}\0{stamp}\0".encode())
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


def repeated(names: Sequence[str]) -> list[str]:
    """The names that occur more than once, each once, in the order of their second occurrence.

    Takes 8 bytes a name where all differ, a tenth of what a set takes.
    """
    hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(names)))
    suspects = set(hashes[1:][hashes[1:] == hashes[:-1]].tolist())
    if not suspects:
        return []
    counts = Counter(name for name in names if hash(name) in suspects)
    return [name for name, count in counts.items() if count > 1]


def require_every_class(labels: np.ndarray, class_names: Sequence[str], place: str) -> None:
    """Refuses training labels that lack a class, and fewer than two classes.

    Args:
        labels: int (N,) of the training part.
        class_names: C names.
        place: Where the labels stand, for the message.

    Raises:
        UserError: Names the classes.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    if empty := [class_names[c] for c in np.flatnonzero(counts == 0)]:
        raise UserError(
            f"{place}: no training images of the class {listing(empty)}. Add some, or take the "
            "class out."
        )
    if len(class_names) < 2:
        count = len(class_names)
        raise UserError(
            f"{place}: {count} class ({listing(class_names)}) where at least 2 are needed."
        )


def listing(names: Iterable[str]) -> str:
    """Names in order, quoted; the first ten of a long list."""
    names = sorted(names)
    more = f" and {len(names) - 10} more" if len(names) > 10 else ""
    return ", ".join(repr(name) for name in names[:10]) + more

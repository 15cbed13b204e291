"""All images of a split, stretched to one square size: decoded once and cached, or streamed.

    images = open_image_store(source, ids, side=160, folder=cache)
    images.array[images.rows["train/cat/0.jpg"]]      # uint8 [160, 160, 3]

Training reads memory-mapped rows instead of decoding files at every step. Images that are smaller
than the square are kept at their own size, and stretched when they are read. If the disk is too
small for all of them, images are decoded whenever they are needed. The pixels are always the same.
"""

import hashlib
import math
import shutil
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from candle_tf.data.cached_arrays import array_path, key_digest, stored_array
from candle_tf.data.images.decode import DECODE_VERSION
from candle_tf.data.images.own_size import OwnSizeImages, image_offsets, keep, kept_size
from candle_tf.data.images.stretch import image_aspect, stretch
from candle_tf.data.sources.registry import Source
from candle_tf.errors import UserError

# A part of the key of the image array and of all that is computed from it: raise it with every
# change of `stretch` or of `image_aspect`; of decoding see `DECODE_VERSION`.
STORE_VERSION = 1

_NAME = "images"
_BLOCK = 256
_THREADS = 4
# Images whose size tells whether those of a data set are smaller than the square, and the part of
# the squares' bytes that keeping them at their own size must save.
_SAMPLE = 256
_LEAST_SAVED = 0.1
# The authors' test transform: the shorter side to 256, then the central 224 x 224.
CENTRE_CROP = 224 / 256


class StreamedImages:
    """Replaces the cached image array: decodes rows when they are read, in a few threads.

    Args:
        source: data set of the images; must stay open.
        ids: N ids, in the order of rows.
        side: side of the stretched images in pixels.
    """

    def __init__(self, source: Source, ids: Sequence[str], side: int) -> None:
        self.shape = (len(ids), side, side, 3)
        self._source = source
        self._ids = ids
        self._pool = ThreadPoolExecutor(_THREADS)

    def read(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Decodes the images of rows int64 [B].

        Returns:
            uint8 [B, side, side, 3], and width to height of each, float32 [B].

        Raises:
            UserError: for an image that cannot be read; names it.
        """
        pixels = np.empty((len(rows), *self.shape[1:]), np.uint8)
        aspects = np.empty(len(rows), np.float32)

        def decode(i: int) -> None:
            image = self._source.read_image(self._ids[rows[i]])
            pixels[i], aspects[i] = stretch(image, self.shape[1]), image_aspect(image)

        for _ in self._pool.map(decode, range(len(rows))):
            pass
        return pixels, aspects

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.read(rows)[0]

    def sizes(self, rows: Iterable[int]) -> np.ndarray:
        """Height and width that images of rows are kept at by `OwnSizeImages`, int32 [B, 2].

        Raises:
            UserError: for an image that cannot be read; names it.
        """

        def size(row: int) -> tuple[int, int]:
            height, width, _ = self._source.read_image(self._ids[row]).shape
            return kept_size(height, width, self.shape[1])

        return np.array(list(self._pool.map(size, rows)), np.int32).reshape(-1, 2)

    def pixels_at_own_size(self, rows: Iterable[int]) -> list[np.ndarray]:
        """Images of rows as `OwnSizeImages` keeps them, uint8 [H, W, 3] each.

        Raises:
            UserError: for an image that cannot be read; names it.
        """

        def pixels(row: int) -> np.ndarray:
            return keep(self._source.read_image(self._ids[row]), self.shape[1])

        return list(self._pool.map(pixels, rows))


@dataclass(frozen=True)
class ImageStore:
    """Decoded images by row.

    Attributes:
        array: image array, uint8 [N, side, side, 3], RGB: memory-mapped, kept at the images' own
            size, or streamed.
        keys: int64 [N], seeds of each image's random views: a hash of its id, so that views do not
            depend on the order or number of images.
        rows: row of each id.
        digest: SHA-256 over ids, content and sample hash of the source, side, and how views are
            cropped.
        original_aspect: whether crops are taken in the original aspect (--resize=crop).
        aspects: for that, width / height of each original image, float32 [N]; None if streamed.
    """

    array: np.ndarray | OwnSizeImages | StreamedImages
    keys: np.ndarray
    rows: dict[str, int]
    digest: str
    original_aspect: bool = False
    aspects: np.ndarray | None = None

    @property
    def streamed(self) -> bool:
        """Whether images are decoded whenever they are needed."""
        return isinstance(self.array, StreamedImages)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Images of rows int64 [B].

        Returns:
            "images" uint8 [B, side, side, 3], "keys" int64 [B], and "aspects" float32 [B] if crops
            are taken in the original aspect.
        """
        aspects: np.ndarray | None
        if isinstance(self.array, StreamedImages):
            pixels, aspects = self.array.read(rows)
        else:
            pixels = self.array[rows]
            aspects = None if self.aspects is None else self.aspects[rows]
        batch = {"images": pixels, "keys": self.keys[rows]}
        return (
            {**batch, "aspects": aspects} if self.original_aspect and aspects is not None else batch
        )

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of several ids, int64 [len(ids)]."""
        return np.array([self.rows[image_id] for image_id in ids], np.int64)


def image_key(image_id: str) -> int:
    """A non-negative 63-bit hash of an id, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little") >> 1


def store_side(image_size: int, resolutions: Sequence[int], resize: str) -> int:
    """Side of the stretched images that a run's views are cropped from, in pixels.

    Args:
        image_size: side of the student's input.
        resolutions: sides of the teacher's inputs.
        resize: with "crop" the side is larger by 8/7, as 7/8 of it are cropped.
    """
    side = max(image_size, *resolutions)
    return math.ceil(side / CENTRE_CROP) if resize == "crop" else side


def open_image_store(
    source: Source,
    ids: Sequence[str],
    side: int,
    folder: Path,
    *,
    resize: str = "stretch",
    store: str = "disk",
) -> ImageStore:
    """Decodes the images of `ids`, or opens those an earlier run decoded, or streams them.

    Args:
        source: data set of the images; must stay open if they are streamed.
        ids: images to decode, in the order of rows.
        side: side of the image array in pixels.
        folder: cache folder.
        resize: "stretch", or "crop" for crops in the original aspect. The image array is the same.
        store: "disk", "stream", or "auto": disk if the images are there already, or take at most
            half of the free space.

    Raises:
        UserError: for an unreadable image (if streamed, when it is read); names it.
    """
    key = {
        "source": source.name,
        "content": source.content_hash(ids),
        "sample": source.sample_hash(ids),
        "side": side,
        "resize": "stretch",
        "version": [STORE_VERSION, DECODE_VERSION],
    }
    original_aspect = resize == "crop"
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    rows = {image_id: row for row, image_id in enumerate(ids)}
    digest = key_digest({**key, "views": "original_aspect"} if original_aspect else key)
    stream = StreamedImages(source, ids, side)
    if store == "stream" or (store == "auto" and not _fits_on_disk(folder, key, stream)):
        return ImageStore(stream, keys, rows, digest, original_aspect)
    array: np.ndarray | OwnSizeImages
    known: dict[int, np.ndarray] = {}
    if _keeps_own_sizes(folder, key, stream):
        array = _open_own_sizes(stream, folder, key)
    else:
        array, known = _open_squares(stream, folder, key)
    aspects = _open_aspects(stream, folder, key, known) if original_aspect else None
    return ImageStore(array, keys, rows, digest, original_aspect, aspects)


def _own_size_key(key: Mapping[str, Any]) -> dict[str, Any]:
    return {**key, "kept": "own size"}


def _mean_pixels(stream: StreamedImages) -> float:
    """Pixels that an image is kept at, the mean of a sample."""
    count = stream.shape[0]
    sizes = stream.sizes(range(0, count, max(1, count // _SAMPLE)))
    return float(np.prod(sizes, axis=1).mean()) if count else 0.0


def _keeps_own_sizes(folder: Path, key: Mapping[str, Any], stream: StreamedImages) -> bool:
    """Whether images are kept at their own size: as before, or where it saves bytes."""
    if array_path(folder, _NAME, _own_size_key(key)).exists():
        return True
    if array_path(folder, _NAME, key).exists() or not stream.shape[0]:
        return False
    return _mean_pixels(stream) <= (1 - _LEAST_SAVED) * stream.shape[1] ** 2


def _fits_on_disk(folder: Path, key: Mapping[str, Any], stream: StreamedImages) -> bool:
    if any(array_path(folder, _NAME, known).exists() for known in (key, _own_size_key(key))):
        return True
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    size = 3 * stream.shape[0] * _mean_pixels(stream)
    if size <= free / 2:
        return True
    logging.info(
        "decoded images would take %.1f of the %.1f GB free in %s: they are decoded whenever "
        "they are needed (--store=stream)",
        size / 1e9,
        free / 1e9,
        folder,
    )
    return False


def _open_own_sizes(stream: StreamedImages, folder: Path, key: Mapping[str, Any]) -> OwnSizeImages:
    """The images at their own size; decodes what is missing."""
    count, side = stream.shape[:2]
    of_sizes = {**key, "of": "sizes"}

    def sizes_of(start: int, stop: int) -> np.ndarray:
        return stream.sizes(range(start, stop))

    sizes = stored_array(folder, "sizes", of_sizes, (count, 2), "int32", _BLOCK, sizes_of)
    offsets = image_offsets(sizes)

    def decode(start: int, stop: int) -> np.ndarray:
        first, last = np.searchsorted(offsets, [start, stop])
        kept = stream.pixels_at_own_size(range(first, last))
        if [image.shape[:2] for image in kept] != [tuple(size) for size in sizes[first:last]]:
            raise UserError("An image changed while it was decoded. Run the same command again.")
        return np.concatenate([image.reshape(-1) for image in kept])

    starts = offsets[:-1][::_BLOCK].tolist()
    own, shape = _own_size_key(key), (int(offsets[-1]),)
    pixels = stored_array(folder, _NAME, own, shape, "uint8", starts, decode, unit="bytes")
    return OwnSizeImages(pixels, sizes, side)


def _open_squares(
    stream: StreamedImages, folder: Path, key: Mapping[str, Any]
) -> tuple[np.ndarray, dict[int, np.ndarray]]:
    """The array of squares; aspects of the blocks that were decoded for it, by their first row."""
    aspects: dict[int, np.ndarray] = {}

    def decode(start: int, stop: int) -> np.ndarray:
        pixels, aspects[start] = stream.read(np.arange(start, stop))
        return pixels

    array = stored_array(folder, _NAME, key, stream.shape, "uint8", _BLOCK, decode, unit="images")
    return array, aspects


def _open_aspects(
    stream: StreamedImages, folder: Path, key: Mapping[str, Any], known: Mapping[int, np.ndarray]
) -> np.ndarray:
    """Width / height of each original image, float32 [N]."""

    def aspects_of(start: int, stop: int) -> np.ndarray:
        return known[start] if start in known else stream.read(np.arange(start, stop))[1]

    shape = (stream.shape[0],)
    return stored_array(
        folder, "aspects", {**key, "of": "aspects"}, shape, "float32", _BLOCK, aspects_of
    )

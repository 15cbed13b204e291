"""All images of a split, stretched to one square size: decoded once and cached, or streamed.

    images = open_image_store(source, ids, side=160, folder=cache)
    images.array[images.rows["train/cat/0.jpg"]]      # uint8 [160, 160, 3]

Training reads memory-mapped rows instead of decoding files at every step. If the disk is too small
for that, images are decoded whenever they are needed, to the same pixels.
"""

import hashlib
import math
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging
from PIL import Image

from candle_tf.data.cached_arrays import array_path, key_digest, stored_array
from candle_tf.data.images.decode import DECODE_VERSION
from candle_tf.data.sources.registry import Source

# A part of the key of the image array and of all that is computed from it: raise it with every
# change of `stretch` or of `image_aspect`; of decoding see `DECODE_VERSION`.
STORE_VERSION = 1

_NAME = "images"
_BLOCK = 256
_THREADS = 4
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


@dataclass(frozen=True)
class ImageStore:
    """Decoded images by row.

    Attributes:
        array: image array, uint8 [N, side, side, 3], RGB, memory-mapped or streamed.
        keys: int64 [N], seeds of each image's random views: a hash of its id, so that views do not
            depend on the order or number of images.
        rows: row of each id.
        digest: SHA-256 over ids, content hash of the source, side, and how views are cropped.
        original_aspect: whether crops are taken in the original aspect (--resize=crop).
        aspects: for that, width / height of each original image, float32 [N]; None if streamed.
    """

    array: np.ndarray | StreamedImages
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


def stretch(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes an image to a square without keeping its aspect, so that nothing is cut off.

    Args:
        image: uint8 [H, W, 3].
        side: pixels.

    Returns:
        uint8 [side, side, 3], antialiased bilinear.
    """
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)


def image_aspect(image: np.ndarray) -> float:
    """Width / height of an image [H, W, 3]."""
    return image.shape[1] / image.shape[0]


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
        "side": side,
        "resize": "stretch",
        "version": [STORE_VERSION, DECODE_VERSION],
    }
    original_aspect = resize == "crop"
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    rows = {image_id: row for row, image_id in enumerate(ids)}
    digest = key_digest({**key, "views": "original_aspect"} if original_aspect else key)
    if store == "stream" or (
        store == "auto" and not _fits_on_disk(folder, key, len(ids) * 3 * side**2)
    ):
        return ImageStore(StreamedImages(source, ids, side), keys, rows, digest, original_aspect)
    array, aspects = _open_on_disk(source, ids, side, folder, key, original_aspect)
    return ImageStore(array, keys, rows, digest, original_aspect, aspects)


def _fits_on_disk(folder: Path, key: Mapping[str, Any], size: int) -> bool:
    if array_path(folder, _NAME, key).exists():
        return True
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
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


def _open_on_disk(
    source: Source,
    ids: Sequence[str],
    side: int,
    folder: Path,
    key: Mapping[str, Any],
    original_aspect: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """The image array and, for the original aspect, the aspects; decodes what is missing."""
    stream = StreamedImages(source, ids, side)
    known_aspects: dict[int, np.ndarray] = {}

    def decode(start: int, stop: int) -> np.ndarray:
        pixels, known_aspects[start] = stream.read(np.arange(start, stop))
        return pixels

    def aspects_of(start: int, stop: int) -> np.ndarray:
        if start in known_aspects:
            return known_aspects[start]
        return stream.read(np.arange(start, stop))[1]

    array = stored_array(folder, _NAME, key, stream.shape, "uint8", _BLOCK, decode)
    if not original_aspect:
        return array, None
    of_aspects = {**key, "of": "aspects"}
    shape = (len(ids),)
    return array, stored_array(folder, "aspects", of_aspects, shape, "float32", _BLOCK, aspects_of)

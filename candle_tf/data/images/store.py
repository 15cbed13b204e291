"""Every image of a split squeezed to one square size: decoded once and kept on disk, or streamed.

    images = open_image_store(source, ids, side=160, folder=cache)
    images.canvas[images.row("train/cat/0.jpg")]      # uint8 [160, 160, 3]

Training reads memory-mapped rows instead of decoding a JPEG at every step. Where the disk is too
small for that, images are decoded whenever they are needed, to the very same pixels.
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
from candle_tf.data.sources.registry import Source

_NAME = "images"
_BLOCK = 256
_THREADS = 4
# The authors' test transform: the shorter side to 256, then the central 224 x 224.
CENTRE_CROP = 224 / 256


class StreamedImages:
    """Stands where a stored canvas would, and decodes what is asked of it, in a few threads.

    Args:
        source: where the images are; must stay open.
        ids: N ids, in the order of rows.
        side: side of the squeezed images in pixels.
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

        def decode(place: int) -> None:
            image = self._source.read_image(self._ids[rows[place]])
            pixels[place], aspects[place] = squeeze(image, self.shape[1]), image_aspect(image)

        for _ in self._pool.map(decode, range(len(rows))):
            pass
        return pixels, aspects

    def __getitem__(self, rows: np.ndarray) -> np.ndarray:
        return self.read(rows)[0]


@dataclass(frozen=True)
class ImageStore:
    """Decoded images by row.

    Attributes:
        canvas: uint8 [N, side, side, 3], RGB, memory-mapped; or what decodes its rows.
        keys: int64 [N], what each image's random views are drawn from; a hash of its id, so that
            views do not change with the order or number of images.
        rows: row of each id.
        digest: SHA-256 over what the canvas holds: ids, content hash of the source, side; and
            over the way that views are cut from it.
        uncut: whether views are square in the uncut image (--resize=crop).
        aspects: for that, width to height of each uncut image, float32 [N], where stored.
    """

    canvas: np.ndarray | StreamedImages
    keys: np.ndarray
    rows: dict[str, int]
    digest: str
    uncut: bool = False
    aspects: np.ndarray | None = None

    @property
    def streamed(self) -> bool:
        """Whether images are decoded whenever they are needed, from a source that stays open."""
        return isinstance(self.canvas, StreamedImages)

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Images of rows int64 [B].

        Returns:
            "images" uint8 [B, side, side, 3], "keys" int64 [B], and "aspects" float32 [B] where
            views are cut from the uncut image.
        """
        aspects: np.ndarray | None
        if isinstance(self.canvas, StreamedImages):
            pixels, aspects = self.canvas.read(rows)
        else:
            pixels = self.canvas[rows]
            aspects = None if self.aspects is None else self.aspects[rows]
        batch = {"images": pixels, "keys": self.keys[rows]}
        return {**batch, "aspects": aspects} if self.uncut and aspects is not None else batch

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of several ids, int64 [len(ids)]."""
        return np.array([self.rows[image_id] for image_id in ids], np.int64)


def squeeze(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes an image to a square, ignoring its aspect so that nothing is cut off.

    Args:
        image: uint8 [H, W, 3].
        side: pixels.

    Returns:
        uint8 [side, side, 3], antialiased bilinear.
    """
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)


def image_aspect(image: np.ndarray) -> float:
    """Width to height of an image [H, W, 3]."""
    return image.shape[1] / image.shape[0]


def image_key(image_id: str) -> int:
    """A non-negative 63-bit number that stands for an id on every machine."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little") >> 1


def store_side(image_size: int, resolutions: Sequence[int], resize: str) -> int:
    """Side of the squeezed images that a run's views are cut from, in pixels.

    Args:
        image_size: side of the student's input.
        resolutions: sides of the teacher's.
        resize: with "crop" the centre of 7/8 has to have the largest of these.
    """
    side = max(image_size, *resolutions)
    return math.ceil(side / CENTRE_CROP) if resize == "crop" else side


def open_image_store(
    source: Source,
    ids: Sequence[str],
    side: int,
    folder: Path,
    *,
    resize: str = "squeeze",
    store: str = "disk",
) -> ImageStore:
    """Decodes the images of `ids`, or opens what an earlier run decoded, or streams them.

    Args:
        source: where the images are; a streamed one must stay open.
        ids: which ones; their order is the order of rows.
        side: side of the canvas in pixels.
        folder: cache folder.
        resize: "squeeze", or "crop" for views from the uncut images; the canvas is the same.
        store: "disk", "stream", or "auto": on disk if they are there already, or take at most half
            of what is free.

    Raises:
        UserError: for an image that cannot be read (streamed: when it is asked for); names it.
    """
    key = {
        "source": source.name,
        "content": source.content_hash(ids),
        "side": side,
        "resize": "squeeze",
    }
    uncut = resize == "crop"
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    rows = {image_id: row for row, image_id in enumerate(ids)}
    digest = key_digest({**key, "views": "uncut"} if uncut else key)
    if store == "stream" or (store == "auto" and not _fits(folder, key, len(ids) * 3 * side**2)):
        return ImageStore(StreamedImages(source, ids, side), keys, rows, digest, uncut)
    canvas, aspects = _stored(source, ids, side, folder, key, uncut)
    return ImageStore(canvas, keys, rows, digest, uncut, aspects)


def _fits(folder: Path, key: Mapping[str, Any], size: int) -> bool:
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


def _stored(
    source: Source,
    ids: Sequence[str],
    side: int,
    folder: Path,
    key: Mapping[str, Any],
    uncut: bool,
) -> tuple[np.ndarray, np.ndarray | None]:
    """Canvas and, for the uncut, aspects; what is missing of either is decoded."""
    stream = StreamedImages(source, ids, side)
    seen: dict[int, np.ndarray] = {}

    def decode(start: int, stop: int) -> np.ndarray:
        pixels, seen[start] = stream.read(np.arange(start, stop))
        return pixels

    def aspects_of(start: int, stop: int) -> np.ndarray:
        if start in seen:
            return seen[start]
        return stream.read(np.arange(start, stop))[1]

    canvas = stored_array(folder, _NAME, key, stream.shape, "uint8", _BLOCK, decode)
    if not uncut:
        return canvas, None
    of_aspects = {**key, "of": "aspects"}
    shape = (len(ids),)
    return canvas, stored_array(folder, "aspects", of_aspects, shape, "float32", _BLOCK, aspects_of)

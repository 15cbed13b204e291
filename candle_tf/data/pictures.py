"""Every picture of a split decoded once, squeezed to one square size, kept on disk.

    pictures = open_pictures(source, ids, side=160, folder=cache)
    pictures.canvas[pictures.row("train/cat/0.jpg")]      # uint8 [160, 160, 3]

Training reads memory-mapped rows instead of decoding a JPEG at every step.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from candle_tf.data.arrays import key_digest, stored_array
from candle_tf.data.sources import Source

_BLOCK = 256
_THREADS = 4


@dataclass(frozen=True)
class Pictures:
    """Decoded pictures by row.

    Attributes:
        canvas: uint8 [N, side, side, 3], RGB, memory-mapped.
        keys: int64 [N], what each picture's random views are drawn from; a hash of its id, so that
            views do not change with the order or number of pictures.
        rows: row of each id.
        digest: SHA-256 over what the canvas holds: ids, content hash of the source, side; and
            over the way that views are cut from it.
        aspects: with --resize=crop, width to height of each uncut picture, float32 [N]; None where
            the squeezed square is taken for the picture.
    """

    canvas: np.ndarray
    keys: np.ndarray
    rows: dict[str, int]
    digest: str
    aspects: np.ndarray | None = None

    @property
    def uncut(self) -> bool:
        """Whether views are square in the uncut picture (--resize=crop)."""
        return self.aspects is not None

    def batch(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Pictures of rows int64 [B].

        Returns:
            "pictures" uint8 [B, side, side, 3], "keys" int64 [B], and "aspects" float32 [B] where
            views are cut from the uncut picture.
        """
        batch = {"pictures": self.canvas[rows], "keys": self.keys[rows]}
        return batch if self.aspects is None else {**batch, "aspects": self.aspects[rows]}

    def rows_of(self, ids: Sequence[str]) -> np.ndarray:
        """Rows of several ids, int64 [len(ids)]."""
        return np.array([self.rows[image_id] for image_id in ids], np.int64)


def squeeze(image: np.ndarray, side: int) -> np.ndarray:
    """Resizes a picture to a square, ignoring its aspect so that nothing is cut off.

    Args:
        image: uint8 [H, W, 3].
        side: pixels.

    Returns:
        uint8 [side, side, 3], antialiased bilinear.
    """
    resized = Image.fromarray(image).resize((side, side), Image.Resampling.BILINEAR)
    return np.asarray(resized, np.uint8)


def picture_aspect(image: np.ndarray) -> float:
    """Width to height of a picture [H, W, 3]."""
    return image.shape[1] / image.shape[0]


def picture_key(image_id: str) -> int:
    """A non-negative 63-bit number that stands for an id on every machine."""
    return int.from_bytes(hashlib.blake2b(image_id.encode(), digest_size=8).digest(), "little") >> 1


def open_pictures(source: Source, ids: Sequence[str], side: int, folder: Path) -> Pictures:
    """Decodes the pictures of `ids`, or opens what an earlier run decoded.

    Args:
        source: where the pictures are.
        ids: which ones; their order is the order of rows.
        side: side of the canvas in pixels.
        folder: cache folder.

    Raises:
        UserError: for a picture that cannot be read; names it.
    """
    key = {
        "source": source.name,
        "content": source.content_hash(ids),
        "side": side,
        "resize": "squeeze",
    }

    def decode(start: int, stop: int) -> np.ndarray:
        wanted = ids[start:stop]
        return np.stack(list(pool.map(lambda i: squeeze(source.read_image(i), side), wanted)))

    with ThreadPoolExecutor(_THREADS) as pool:
        shape = (len(ids), side, side, 3)
        canvas = stored_array(folder, "pictures", key, shape, "uint8", _BLOCK, decode)
    keys = np.array([picture_key(image_id) for image_id in ids], np.int64)
    rows = {image_id: row for row, image_id in enumerate(ids)}
    return Pictures(canvas, keys, rows, key_digest(key))

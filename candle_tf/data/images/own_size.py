"""Decoded images of less pixels than the square they are seen as, kept at their own size.

    images = OwnSizeImages(pixels, sizes, side=160)
    images[np.array([4, 7])]                          # uint8 [2, 160, 160, 3]

A square of an image of 64 px, enlarged for a teacher's 160, takes six times the image's own bytes
and holds nothing more. It is stretched when it is read, to the same pixels.
"""

from typing import Any

import numpy as np

from candle_tf.data.images.stretch import stretch


class OwnSizeImages:
    """Reads like an image array, uint8 [N, side, side, 3].

    Args:
        pixels: of all images, one after the other, uint8 [P], memory-mapped or not.
        sizes: height and width of each as it is kept, int [N, 2]; P is the sum of 3 * height *
            width.
        side: of the squares, in pixels.

    Raises:
        ValueError: where P is another number.
    """

    def __init__(self, pixels: np.ndarray, sizes: np.ndarray, side: int) -> None:
        self.shape = (len(sizes), side, side, 3)
        self.dtype = np.dtype(np.uint8)
        # Slices of a plain array cost less than those of a memory map.
        self._pixels = np.asarray(pixels)
        self._sizes = np.asarray(sizes)
        self._offsets = image_offsets(self._sizes)
        if self._pixels.shape != (self._offsets[-1],):
            raise ValueError(f"{self._pixels.shape} pixels for images of {self._offsets[-1]}")

    @property
    def nbytes(self) -> int:
        """Bytes of all images as they are kept."""
        return self._pixels.nbytes

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: Any) -> np.ndarray:
        """Images of one row, of a slice of rows, or of rows int64 [B]."""
        places = np.arange(len(self))[rows]
        if np.ndim(places) == 0:
            return stretch(self._at(int(places)), self.shape[1])
        squares = np.empty((len(places), *self.shape[1:]), np.uint8)
        for number, row in enumerate(places):
            squares[number] = stretch(self._at(row), self.shape[1])
        return squares

    def __array__(self, dtype: Any = None) -> np.ndarray:
        return self[:] if dtype is None else self[:].astype(dtype)

    def _at(self, row: int) -> np.ndarray:
        begin, end = self._offsets[row], self._offsets[row + 1]
        return self._pixels[begin:end].reshape(*self._sizes[row], 3)


def image_offsets(sizes: np.ndarray) -> np.ndarray:
    """Where each image of such sizes begins, and where the last one ends, int64 [N + 1]."""
    areas = 3 * np.prod(np.asarray(sizes, np.int64), axis=1)
    return np.concatenate([[0], np.cumsum(areas)])


def kept_size(height: int, width: int, side: int) -> tuple[int, int]:
    """The size an image is kept at: its own, or the square's where that has no more pixels."""
    return (height, width) if height * width < side**2 else (side, side)


def keep(image: np.ndarray, side: int) -> np.ndarray:
    """An image uint8 [H, W, 3] as it is kept, uint8 of `kept_size`.

    `stretch` of the result is `stretch` of the image.
    """
    height, width, _ = image.shape
    size = kept_size(height, width, side)
    return image if size == image.shape[:2] else stretch(image, side)

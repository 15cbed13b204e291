"""scikit-learn's 1,797 scans of handwritten digits, 8x8 pixels, without a test part."""

import numpy as np

from candle_tf.data.sources.source import Partition, Place, Source


def open_digits(name: str, place: Place) -> Source:
    """Opens the scans; they ship with scikit-learn, so no place is needed."""
    del place
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

    names = tuple(str(digit) for digit in digits.target_names)
    return Source(name, names, Partition(ids, digits.target), None, read, stamp)

"""scikit-learn's 1,797 scans of handwritten digits, 8x8 pixels, no test subset."""

import numpy as np

from candle_tf.data.sources.source import LabelledImages, Source, SourceConfig


def open_digits(name: str, config: SourceConfig) -> Source:
    """Opens the scans; they ship with scikit-learn, so nothing has to be given."""
    del config
    # Imported here: it takes seconds, and no other data set needs it.
    from sklearn.datasets import load_digits

    digits = load_digits()
    # 0..16 to 0..255.
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    ids = tuple(f"digits/{i:05d}" for i in range(len(pixels)))
    index = {image_id: i for i, image_id in enumerate(ids)}

    def read(image_id: str) -> np.ndarray:
        return np.repeat(pixels[index[image_id]][..., np.newaxis], 3, axis=-1)

    def change_token(image_id: str) -> str:
        return pixels[index[image_id]].tobytes().hex()

    names = tuple(str(digit) for digit in digits.target_names)
    return Source(name, names, LabelledImages(ids, digits.target), None, read, change_token)

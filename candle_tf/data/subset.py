"""The images and labels of one subset of a split."""

from dataclasses import dataclass

import numpy as np

from candle_tf.data.images.store import ImageStore


@dataclass(frozen=True)
class Subset:
    """Images with labels: train, validation or test.

    Attributes:
        images: the store of all images.
        rows: rows of the subset in the store, int64 [N].
        labels: int32 [N].
    """

    images: ImageStore
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def keys(self, index: np.ndarray) -> np.ndarray:
        """Seeds of the random views of examples `index`, int64 [B]; int64 [B]."""
        return self.images.keys[self.rows[index]]

    def batch(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Decoded images, keys and labels of examples `index`, int64 [B].

        Returns:
            "images" uint8 [B, side, side, 3], "keys" int64 [B], "labels" int32 [B]; with
            --resize=crop also "aspects" float32 [B], width / height of the original images.
        """
        return {**self.images.batch(self.rows[index]), "labels": self.labels[index]}

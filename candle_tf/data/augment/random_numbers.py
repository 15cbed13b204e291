"""Random numbers for one view of one image, whatever was drawn before and wherever it is drawn.

    rng = view_generator(seed=0, key=image_key("train/cat/0.jpg"), view=3, stream=MIXING)
    ratio = rng.beta(1.0, 1.0)

NumPy's Philox is a counter-based generator: its key is (seed and image, view), its counter begins
at the stream, so that no two streams of a view share a number. The crop and flip of `crops` come
from TensorFlow's Philox in the same way.
"""

import zlib

import numpy as np

# What is drawn for a view; each has a stream of its own, so that switching one on or off leaves the
# others as they were.
COLOR, RANDAUGMENT, MIXING = 1, 2, 3

SEED_MULTIPLIER = 0x9E3779B97F4A7C1


def view_generator(seed: int, key: int, view: int, stream: int) -> np.random.Generator:
    """A generator that depends on nothing but its arguments.

    Args:
        seed: the run's seed, at least 0.
        key: the image's key (`images.image_key`), 63 bits.
        view: number of the view, from 0.
        stream: `COLOR`, `RANDAUGMENT`, `MIXING` or a `stream_of` another operation.
    """
    mixed = int(key) ^ (int(seed) * SEED_MULTIPLIER % 2**64)
    return np.random.Generator(
        np.random.Philox(key=np.array([mixed, view], np.uint64), counter=[0, 0, 0, stream])
    )


def stream_of(operation: str) -> int:
    """The stream of an operation by its name, apart from the numbered ones."""
    return 2**32 + zlib.crc32(operation.encode())

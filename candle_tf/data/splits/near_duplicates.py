"""Images of the training subset that are in the test subset again, encoded or resized otherwise.

Byte-equal copies are found by `duplicates`. These are found by a perceptual hash of the decoded
image: 64 bits of its low frequencies (phash of the ImageHash package), which copies share but for a
few bits. Small or plain images (digits, icons) can be alike without being copies: it is a warning.
"""

from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from PIL import Image

from candle_tf.data.sources.source import Source
from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError

_BITS = 64
_THREADS = 4
# Pairs that a message lists.
_SHOWN = 10


@dataclass(frozen=True)
class NearDuplicate:
    """A pair of images with similar hashes.

    Attributes:
        train, test: their ids.
        bits: of 64, in which their hashes differ.
        classes: names of their classes; one name if it is the same.
    """

    train: str
    test: str
    bits: int
    classes: tuple[str, ...]


def find_near_duplicates(source: Source, split: Split, distance: int) -> list[NearDuplicate]:
    """Pairs of a training (or validation) and a test image, the most alike first.

    Args:
        source: the data set.
        split: without images that cannot be read.
        distance: hashes differ in at most so many of their 64 bits, 0 to 16.

    Raises:
        UserError: where the package ImageHash is not installed.
    """
    seen = [*split.train.ids, *split.validation.ids]
    labels = np.concatenate([split.train.labels, split.validation.labels])
    pairs = close_pairs(
        perceptual_hashes(source, seen), perceptual_hashes(source, split.test.ids), distance
    )
    found = []
    for bits, i, j in pairs:
        names = {split.class_names[labels[i]], split.class_names[split.test.labels[j]]}
        found.append(NearDuplicate(seen[i], split.test.ids[j], bits, tuple(sorted(names))))
    return sorted(found, key=lambda pair: (pair.bits, pair.test, pair.train))


def near_duplicates_text(pairs: Sequence[NearDuplicate]) -> str:
    """How many there are, and examples: what is logged or printed."""
    if not pairs:
        return "No test image looks like a training image."
    images = len({pair.test for pair in pairs})
    shown = "".join(
        f"\n  {pair.test} ~ {pair.train} ({pair.bits} of {_BITS} bits, {' / '.join(pair.classes)})"
        for pair in pairs[:_SHOWN]
    )
    more = f"\n  and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
    return f"{images} test images look like a training image:{shown}{more}"


def require_hashes() -> None:
    """Asks for the package that makes them.

    Raises:
        UserError: where the package ImageHash is not installed.
    """
    try:
        import imagehash  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--near_duplicates needs the package ImageHash: python -m pip install "
            "'candle-tf[duplicates]'."
        ) from error


def perceptual_hashes(source: Source, ids: Sequence[str]) -> np.ndarray:
    """uint64 `[N]`: the hash of each image.

    Raises:
        UserError: where the package ImageHash is not installed, or an image cannot be read.
    """
    require_hashes()
    import imagehash

    def hash_of(image_id: str) -> int:
        bits = imagehash.phash(Image.fromarray(source.read_image(image_id))).hash
        return int.from_bytes(np.packbits(bits).tobytes(), "big")

    with ThreadPoolExecutor(_THREADS) as pool:
        return np.fromiter(pool.map(hash_of, ids), np.uint64, len(ids))


def close_pairs(first: np.ndarray, second: np.ndarray, distance: int) -> list[tuple[int, int, int]]:
    """All pairs that differ in at most `distance` bits: (bits, index in first, index in second).

    Exact: of distance + 1 bands of bits, two such hashes have at least one in common, so only those
    that share a band are compared.

    Args:
        first, second: uint64 `[N]` and `[M]`.
        distance: at least 0.
    """
    found: dict[tuple[int, int], int] = {}
    edges = np.linspace(0, _BITS, distance + 2).astype(int)
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        mask = (1 << (stop - start)) - 1
        bands = defaultdict(list)
        for j, value in enumerate(second.tolist()):
            bands[value >> start & mask].append(j)
        for i, value in enumerate(first.tolist()):
            for j in bands.get(value >> start & mask, ()):
                bits = (value ^ int(second[j])).bit_count()
                if bits <= distance:
                    found[i, j] = bits
    return [(bits, i, j) for (i, j), bits in sorted(found.items())]

"""Images of the training subset that are in the test subset again, encoded or resized otherwise.

Byte-equal copies are found by `duplicates`. These are found by a perceptual hash of the decoded
image: 64 bits of its low frequencies (phash of the ImageHash package), which copies share but for a
few bits. Small or plain images (digits, icons) can be alike without being copies: it is a warning.
Of each test image the nearest training image is told and how many there are: a thousand plain
images in each subset would be a million pairs.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
from PIL import Image

from candle_tf.data.cached_arrays import stored_array
from candle_tf.data.images.decode import DECODE_VERSION
from candle_tf.data.sources.source import Source
from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.progress import Progress

_BITS = 64
# Bits that are set in each number of 16 bits.
_BITS_SET = np.unpackbits(np.arange(2**16, dtype=np.uint16).view(np.uint8).reshape(-1, 2), axis=1)
_COUNTS = _BITS_SET.sum(axis=1, dtype=np.uint8)
_THREADS = 4
# Images whose hashes are computed and saved at a time.
_BLOCK = 1024
# Pairs that a message lists.
_SHOWN = 10


@dataclass(frozen=True)
class NearDuplicate:
    """A test image and the training image whose hash is nearest.

    Attributes:
        train, test: their ids.
        bits: of 64, in which their hashes differ.
        classes: names of their classes; one name if it is the same.
        alike: number of training images that are near. Older versions recorded each as a pair of
            its own.
    """

    train: str
    test: str
    bits: int
    classes: tuple[str, ...]
    alike: int = 1


def find_near_duplicates(
    source: Source, split: Split, distance: int, cache: Path
) -> list[NearDuplicate]:
    """The test images that are like a training (or validation) image, the most alike first.

    Args:
        source: the data set.
        split: without images that cannot be read.
        distance: hashes differ in at most so many of their 64 bits, 0 to 16.
        cache: folder in which the hashes are kept.

    Raises:
        UserError: where the package ImageHash is not installed.
    """
    subsets = split.subsets.values()
    ids = [image_id for subset in subsets for image_id in subset.ids]
    classes = [split.class_names[c] for subset in subsets for c in subset.labels.tolist()]
    hashes = perceptual_hashes(source, ids, cache)
    seen = len(ids) - len(split.test.ids)
    # So that of equal hashes the first id is the nearest.
    order = np.array(sorted(range(seen), key=ids.__getitem__), np.int64)
    found = []
    for test, nearest, bits, alike in nearest_hashes(hashes[order], hashes[seen:], distance):
        i, j = int(order[nearest]), seen + test
        names = tuple(sorted({classes[i], classes[j]}))
        found.append(NearDuplicate(ids[i], ids[j], bits, names, alike))
    return sorted(found, key=lambda pair: (pair.bits, pair.test, pair.train))


def near_duplicates_text(pairs: Sequence[NearDuplicate]) -> str:
    """How many there are, and examples: what is logged or printed."""
    if not pairs:
        return "No test image looks like a training image."
    images = len({pair.test for pair in pairs})
    shown = "".join(
        f"\n  {pair.test} ~ {pair.train} ({pair.bits} of {_BITS} bits, "
        f"{' / '.join(pair.classes)}{_others(pair)})"
        for pair in pairs[:_SHOWN]
    )
    more = f"\n  and {len(pairs) - _SHOWN} more pairs" if len(pairs) > _SHOWN else ""
    return f"{images} test images look like a training image:{shown}{more}"


def _others(pair: NearDuplicate) -> str:
    return f"; {pair.alike - 1} more training images" if pair.alike > 1 else ""


def require_hashes() -> None:
    """Asks for the package that makes them.

    Raises:
        UserError: where the package ImageHash is not installed.
    """
    try:
        import imagehash  # noqa: F401
    except ImportError as error:
        raise UserError(
            "--near_duplicates needs the package ImageHash: python -m pip install ImageHash."
        ) from error


def perceptual_hashes(source: Source, ids: Sequence[str], cache: Path) -> np.ndarray:
    """uint64 `[N]`: the hash of each image, computed once and kept in a folder.

    Raises:
        UserError: where the package ImageHash is not installed, or an image cannot be read.
    """
    require_hashes()
    import imagehash

    def hash_of(image_id: str) -> int:
        bits = imagehash.phash(Image.fromarray(source.read_image(image_id))).hash
        return int.from_bytes(np.packbits(bits).tobytes(), "big")

    def hash_block(start: int, stop: int) -> np.ndarray:
        return np.fromiter(pool.map(hash_of, ids[start:stop]), np.uint64, stop - start)

    key = {
        "source": source.name,
        "content": source.content_hash(ids),
        "sample": source.sample_hash(ids),
        "version": [DECODE_VERSION, version("ImageHash")],
    }
    with ThreadPoolExecutor(_THREADS) as pool:
        return np.array(
            stored_array(cache, "similarity", key, (len(ids),), "uint64", _BLOCK, hash_block)
        )


def nearest_hashes(
    first: np.ndarray, second: np.ndarray, distance: int
) -> list[tuple[int, int, int, int]]:
    """Of each hash of `second` the nearest one of `first`, if it differs in few enough bits.

    Exact: of distance + 1 bands of bits, two such hashes have at least one in common, so only those
    that share a band are compared, each different one once.

    Args:
        first, second: uint64 `[N]` and `[M]`.
        distance: hashes differ in at most so many bits, at least 0.

    Returns:
        Index in `second`, index in `first` (the first of several that are as near), bits that
        differ, and the number of hashes of `first` that are near, in the order of `second`.
    """
    known, places, counts = np.unique(first, return_index=True, return_counts=True)
    wanted, which = np.unique(second, return_inverse=True)
    bands = _shared_bands(known, wanted, distance)
    found: dict[int, tuple[int, int, int]] = {}
    with Progress("similar images", len(wanted), "hashes") as progress:
        for number, value in enumerate(wanted):
            rows = np.concatenate([order[lows[number] : highs[number]]
                                   for order, lows, highs in bands])  # fmt: skip
            bits = _count_bits(known[rows] ^ value)
            near, at = np.unique(rows[bits <= distance], return_index=True)
            if len(near):
                bits = bits[bits <= distance][at]
                least = int(bits.min())
                nearest = int(places[near[bits == least]].min())
                found[number] = nearest, least, int(counts[near].sum())
            progress.advance(1)
    return [(j, *found[number]) for j, number in enumerate(which.tolist()) if number in found]


def _shared_bands(
    known: np.ndarray, wanted: np.ndarray, distance: int
) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Of each band of bits an order of the known hashes, and of each wanted one its range there."""
    found = []
    edges = np.linspace(0, _BITS, distance + 2).astype(int)
    for start, stop in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        mask = np.uint64((1 << (stop - start)) - 1)
        values = known >> np.uint64(start) & mask
        order = np.argsort(values, kind="stable")
        asked = wanted >> np.uint64(start) & mask
        lows = np.searchsorted(values[order], asked, "left")
        found.append((order, lows, np.searchsorted(values[order], asked, "right")))
    return found


def _count_bits(values: np.ndarray) -> np.ndarray:
    """Bits that are set in each of uint64 `[N]`."""
    return _COUNTS[values.view(np.uint16).reshape(-1, 4)].sum(axis=1)

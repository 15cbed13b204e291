"""Copies of images that are encoded or resized otherwise."""

import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from candle_tf.data.sources.registry import open_source
from candle_tf.data.splits.near_duplicates import close_pairs, find_near_duplicates
from candle_tf.data.splits.split import make_split


@pytest.mark.parametrize("distance", [0, 1, 5, 16])
def test_close_pairs_are_those_of_all_comparisons(distance):
    rng = np.random.default_rng(distance)
    first = rng.integers(0, 2**63, 60, np.int64).astype(np.uint64)
    flips = [sum(1 << int(b) for b in rng.choice(64, n, replace=False)) for n in range(20)]
    second = np.array([int(first[n]) ^ flip for n, flip in enumerate(flips)], np.uint64)
    expected = {
        (bin(int(a) ^ int(b)).count("1"), i, j)
        for i, a in enumerate(first)
        for j, b in enumerate(second)
        if bin(int(a) ^ int(b)).count("1") <= distance
    }
    assert len(expected) == min(distance, 19) + 1
    assert set(close_pairs(first, second, distance)) == expected


def _tiles(image, count):
    """Parts of a photograph that do not overlap, uint8 [64, 64, 3]."""
    places = [(y, x) for y in range(0, 448, 64) for x in range(0, 448, 64)]
    return [image[y : y + 64, x : x + 64] for y, x in places[:count]]


def _save(path, array, size=64, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    Image.fromarray(array).resize((size, size), Image.Resampling.BICUBIC).save(buffer, **options)
    path.write_bytes(buffer.getvalue())


def test_a_resized_and_a_recompressed_copy_are_found(tmp_path):
    pytest.importorskip("imagehash", reason="ImageHash of requirements-dev.txt is not here")
    tiles = _tiles(data.astronaut(), 40)
    for number, tile in enumerate(tiles[:20]):
        _save(tmp_path / f"train/{'ab'[number % 2]}/{number:02d}.png", tile, format="PNG")
    for number, tile in enumerate(tiles[20:]):
        _save(tmp_path / f"test/{'ab'[number % 2]}/{number:02d}.png", tile, format="PNG")
    _save(tmp_path / "test/a/resized.png", tiles[8], size=96, format="PNG")
    _save(tmp_path / "test/a/recompressed.jpg", tiles[5], format="JPEG", quality=60)
    with open_source("folder", str(tmp_path)) as source:
        split = make_split(source, profile="natural", imbalance_factor=1, seed=0,
                           validation_fraction=0.0, test_fraction=0.0)  # fmt: skip
        found = find_near_duplicates(source, split, 4)
    assert {(pair.train, pair.test) for pair in found} >= {
        ("train/a/08.png", "test/a/resized.png"),
        ("train/b/05.png", "test/a/recompressed.jpg"),
    }
    assert next(p for p in found if p.test == "test/a/recompressed.jpg").classes == ("a", "b")

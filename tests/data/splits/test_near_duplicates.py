"""Copies of images that are encoded or resized otherwise."""

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from skimage import data

from candle_tf.data.sources.registry import open_source
from candle_tf.data.splits.near_duplicates import (
    NearDuplicate,
    find_near_duplicates,
    near_duplicates_text,
    nearest_hashes,
)
from candle_tf.data.splits.split import make_split


@pytest.mark.parametrize("distance", [0, 1, 5, 16])
def test_the_nearest_hashes_are_those_of_all_comparisons(distance):
    rng = np.random.default_rng(distance)
    first = rng.integers(0, 2**63, 60, np.int64).astype(np.uint64)
    flips = [sum(1 << int(b) for b in rng.choice(64, n, replace=False)) for n in range(20)]
    second = np.array([int(first[n]) ^ flip for n, flip in enumerate(flips)], np.uint64)
    # Hashes that are there several times, and neighbours of one another.
    first = np.concatenate([first, first[:30], first[:20] ^ np.uint64(1), second[10:12]])
    second = np.concatenate([second, second[:9]])
    expected = []
    for j, b in enumerate(second):
        bits = [bin(int(a) ^ int(b)).count("1") for a in first]
        if min(bits) <= distance:
            alike = sum(each <= distance for each in bits)
            expected.append((j, bits.index(min(bits)), min(bits), alike))
    assert len(expected) > 1
    assert max(alike for *_, alike in expected) > 1
    assert nearest_hashes(first, second, distance) == expected


def test_plain_images_are_counted_instead_of_listed():
    """All of one hash: pairs would be 10**10."""
    plain = np.zeros(100_000, np.uint64)
    found = nearest_hashes(plain, plain, 4)
    assert len(found) == len(plain)
    assert {each[1:] for each in found} == {(0, 0, len(plain))}


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
        found = find_near_duplicates(source, split, 4, tmp_path / "cache")
        unread = dataclasses.replace(source, reader=None)
        assert find_near_duplicates(unread, split, 4, tmp_path / "cache") == found
    assert {(pair.train, pair.test) for pair in found} >= {
        ("train/a/08.png", "test/a/resized.png"),
        ("train/b/05.png", "test/a/recompressed.jpg"),
    }
    assert next(p for p in found if p.test == "test/a/recompressed.jpg").classes == ("a", "b")
    assert len({pair.test for pair in found}) == len(found)


def test_images_that_are_as_near_are_told_by_the_first_and_their_number(tmp_path):
    pytest.importorskip("imagehash", reason="ImageHash of requirements-dev.txt is not here")
    for number, name in enumerate(["train/b/2", "train/b/1", "train/a/3", "test/b/1"]):
        # Several encodings of one image, and another one.
        tile = _tiles(data.astronaut(), 9)[8 if number < 2 or number == 3 else 0]
        _save(tmp_path / f"{name}.png", tile, format="PNG", compress_level=number)
    with open_source("folder", str(tmp_path)) as source:
        split = make_split(source, profile="natural", imbalance_factor=1, seed=0,
                           validation_fraction=0.0, test_fraction=0.0)  # fmt: skip
        found = find_near_duplicates(source, split, 4, tmp_path / "cache")
    assert found == [NearDuplicate("train/b/1.png", "test/b/1.png", 0, ("b",), 2)]
    assert "(0 of 64 bits, b; 1 more training images)" in near_duplicates_text(found)

import io
import logging
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from candle_tf.data.images.store import image_key, open_image_store, store_side, stretch
from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError

SIDE = 12
IDS = tuple(f"train/{name}/{i}.png" for name in ("ant", "cat") for i in range(3))


def noise(seed: int, height: int = 20, width: int = 30) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def png(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture
def data(tmp_path):
    """A data set of IDS; the i-th image is noise(i)."""
    root = tmp_path / "data"
    for i, name in enumerate(IDS):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(noise(i)))
    return root


def open_store(data, folder, ids=IDS, side=SIDE):
    with open_source("folder", str(data)) as source:
        return open_image_store(source, ids, side, folder)


def test_each_row_is_the_image_of_its_id(data, tmp_path):
    order = IDS[::-1]
    images = open_store(data, tmp_path / "cache", order)
    assert images.array.shape == (len(IDS), SIDE, SIDE, 3)
    assert images.array.dtype == np.uint8
    for i, image_id in enumerate(IDS):
        row = images.rows[image_id]
        np.testing.assert_array_equal(images.array[row], stretch(noise(i), SIDE))
    rows = images.rows_of([IDS[4], IDS[0]])
    assert rows.dtype == np.int64
    assert rows.tolist() == [1, 5]


def test_rows_of_no_images_and_of_an_unknown_one(data, tmp_path):
    images = open_store(data, tmp_path / "cache")
    assert images.rows_of([]).shape == (0,)
    with pytest.raises(KeyError):
        images.rows_of(["train/cat/9.png"])


def test_keys_do_not_depend_on_order_or_number_of_images(data, tmp_path):
    every = open_store(data, tmp_path / "cache")
    some = open_store(data, tmp_path / "cache", (IDS[5], IDS[2]))
    assert every.keys.dtype == np.int64
    assert (every.keys >= 0).all()
    assert len(set(every.keys.tolist())) == len(IDS)
    assert some.keys.tolist() == [every.keys[5], every.keys[2]]
    assert some.digest != every.digest


def test_image_keys_spread_over_all_bits():
    keys = np.array([image_key(f"train/cat/{i}.png") for i in range(400)], np.int64)
    assert (keys >= 0).all()
    set_bits = ((keys[:, None] >> np.arange(63)) & 1).sum(axis=0)
    # Binomial(400, 1/2): 6 standard deviations are 60.
    assert np.abs(set_bits - 200).max() < 60


@pytest.mark.parametrize(("height", "width"), [(20, 30), (30, 20), (7, 5), (1, 1), (12, 12)])
def test_stretch_gives_the_whole_image_as_a_square(height, width):
    image = noise(3, height, width)
    square = stretch(image, SIDE)
    assert square.shape == (SIDE, SIDE, 3)
    assert square.dtype == np.uint8
    if (height, width) == (SIDE, SIDE):
        np.testing.assert_array_equal(square, image)


def test_stretch_keeps_a_constant_image_and_the_places_of_things():
    np.testing.assert_array_equal(stretch(np.full((9, 17, 3), 77, np.uint8), SIDE), 77)
    image = np.zeros((40, 80, 3), np.uint8)
    image[20:, 40:, 0] = 255  # lower right, red
    square = stretch(image, SIDE)
    assert (square[7:, 7:, 0] == 255).all()
    assert (square[:5, :, 0] == 0).all()
    assert (square[:, :5, 0] == 0).all()
    assert (square[..., 1:] == 0).all()


def test_stretch_is_antialiased():
    """A chequerboard of single pixels becomes grey, instead of some of its pixels."""
    board = np.indices((64, 64)).sum(axis=0) % 2 * 255
    square = stretch(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), 8)
    assert np.abs(square.astype(int) - 127.5).max() < 12


def test_an_unreadable_image_is_named_and_a_rerun_after_a_fix_resumes(data, tmp_path):
    broken = data / IDS[4]
    broken.write_bytes(png(noise(4))[:60])
    with pytest.raises(UserError, match=IDS[4]):
        open_store(data, tmp_path / "cache")
    broken.write_bytes(png(noise(40)))
    images = open_store(data, tmp_path / "cache")
    for i in (0, 4, 5):
        seed = 40 if i == 4 else i
        np.testing.assert_array_equal(images.array[i], stretch(noise(seed), SIDE))


def test_a_second_opening_decodes_nothing(data, tmp_path):
    first = open_store(data, tmp_path / "cache")
    seen = []
    with open_source("folder", str(data)) as source:
        read = source.reader
        object.__setattr__(source, "reader", lambda name: (seen.append(name), read(name))[1])
        again = open_image_store(source, IDS, SIDE, tmp_path / "cache")
        open_image_store(source, IDS, SIDE + 1, tmp_path / "cache")
    # For the other side alone: of a sample of the images (here all) their sizes, then the pixels.
    assert sorted(seen) == sorted(2 * IDS)
    assert again.digest == first.digest
    np.testing.assert_array_equal(again.array, first.array)


def test_a_changed_image_is_decoded_again(data, tmp_path):
    before = open_store(data, tmp_path / "cache")
    (data / IDS[1]).write_bytes(png(noise(90, 25, 25)))
    after = open_store(data, tmp_path / "cache")
    assert after.digest != before.digest
    np.testing.assert_array_equal(after.array[1], stretch(noise(90, 25, 25), SIDE))
    np.testing.assert_array_equal(after.array[2], before.array[2])
    np.testing.assert_array_equal(after.keys, before.keys)


def write_bitmaps(root, shade):
    """Images of raw pixels of one shade: of the same names, sizes and times for every shade."""
    for name in IDS:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (SIDE, SIDE), (shade, shade, shade)).save(path, "BMP")
        os.utime(path, (315532800, 315532800))
    return root


def test_data_sets_of_the_same_names_sizes_and_times_share_no_images(tmp_path):
    folders = {shade: write_bitmaps(tmp_path / str(shade), shade) for shade in (10, 200)}
    digests = set()
    for _ in range(2):
        for shade, folder in folders.items():
            images = open_store(folder, tmp_path / "cache")
            np.testing.assert_array_equal(images.array, np.full((len(IDS), SIDE, SIDE, 3), shade))
            digests.add(images.digest)
    assert len(digests) == 2
    assert len(list((tmp_path / "cache").glob("images-*.npy"))) == 2
    for name in IDS:
        shutil.copy2(folders[10] / name, folders[200] / name)
    copy = open_store(folders[200], tmp_path / "cache")
    assert copy.digest == open_store(folders[10], tmp_path / "cache").digest


def test_another_side_is_another_digest(data, tmp_path):
    small, large = (open_store(data, tmp_path / "cache", side=side) for side in (SIDE, 2 * SIDE))
    assert small.digest != large.digest
    assert large.array.shape[1] == 2 * SIDE


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_streamed_images_are_the_stored_ones_bit_for_bit(data, tmp_path, resize):
    (data / IDS[1]).write_bytes(png(noise(1, 31, 9)))
    rows = np.array([4, 1, 1, 0])
    with open_source("folder", str(data)) as source:
        stored, streamed = (
            open_image_store(source, IDS, SIDE, tmp_path / store, resize=resize, store=store)
            for store in ("disk", "stream")
        )
        assert streamed.streamed
        assert not stored.streamed
        assert streamed.digest == stored.digest
        ours, theirs = streamed.batch(rows), stored.batch(rows)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name])
    assert not (tmp_path / "stream").exists()
    if resize == "crop":
        np.testing.assert_allclose(ours["aspects"], [1.5, 9 / 31, 9 / 31, 1.5], rtol=1e-6)


def test_original_aspect_shares_the_array_but_not_the_digest(data, tmp_path):
    stretched = open_store(data, tmp_path / "cache")
    with open_source("folder", str(data)) as source:
        original = open_image_store(source, IDS, SIDE, tmp_path / "cache", resize="crop")
    np.testing.assert_array_equal(original.array, stretched.array)
    assert len(list((tmp_path / "cache").glob("images-*.npy"))) == 1
    np.testing.assert_allclose(original.aspects, 1.5)
    assert original.digest != stretched.digest


@pytest.mark.parametrize(("times", "streamed"), [(1.9, True), (2.1, False)])
def test_auto_streams_what_takes_more_than_half_of_the_free_disk(
    data, tmp_path, monkeypatch, times, streamed
):
    size = len(IDS) * SIDE * SIDE * 3
    usage = type(shutil.disk_usage(tmp_path))
    full = usage(10**9, 0, int(times * size))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)  # noqa: ARG005
    with open_source("folder", str(data)) as source:
        chosen = open_image_store(source, IDS, SIDE, tmp_path / "cache", store="auto")
        assert chosen.streamed == streamed
        # What is there already takes nothing more.
        open_image_store(source, IDS, SIDE, tmp_path / "cache", store="disk")
        assert not open_image_store(source, IDS, SIDE, tmp_path / "cache", store="auto").streamed


def test_a_streamed_image_that_cannot_be_read_is_named(data, tmp_path):
    (data / IDS[4]).write_bytes(png(noise(4))[:60])
    with open_source("folder", str(data)) as source:
        streamed = open_image_store(source, IDS, SIDE, tmp_path, store="stream")
        streamed.batch(np.array([0, 5]))
        with pytest.raises(UserError, match=IDS[4]):
            streamed.batch(np.array([0, 4]))


def test_the_store_has_room_for_the_largest_view_of_the_centre():
    assert store_side(64, (96, 160), "stretch") == 160
    assert store_side(224, (96, 160), "crop") == 256
    assert store_side(64, (96, 160), "crop") * 224 / 256 >= 160


# Smaller than a square of 12 px, larger, and of as many pixels but another shape.
SMALL_SIZES = [(5, 9), (12, 11), (3, 40), (40, 3), (20, 30), (2, 72)]


@pytest.fixture
def small_data(tmp_path):
    """A data set of IDS; the i-th image is noise(i) of the i-th small size."""
    root = tmp_path / "small"
    for i, name in enumerate(IDS):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(noise(i, *SMALL_SIZES[i])))
    return root


def test_images_take_no_more_bytes_than_their_own_pixels_or_the_square(small_data, tmp_path):
    images = open_store(small_data, tmp_path / "cache")
    pixels = sum(min(height * width, SIDE**2) for height, width in SMALL_SIZES)
    (path,) = (tmp_path / "cache").glob("images-*.npy")
    assert path.stat().st_size == 3 * pixels + 128  # NumPy's header
    assert pixels < len(IDS) * SIDE**2
    assert not images.streamed
    for i in range(len(IDS)):
        np.testing.assert_array_equal(images.array[i], stretch(noise(i, *SMALL_SIZES[i]), SIDE))


@pytest.mark.parametrize("resize", ["stretch", "crop"])
def test_images_kept_at_their_own_size_are_the_streamed_ones(small_data, tmp_path, resize):
    rows = np.array([4, 1, 1, 0, 5, 2, 3])
    with open_source("folder", str(small_data)) as source:
        stored, streamed = (
            open_image_store(source, IDS, SIDE, tmp_path / store, resize=resize, store=store)
            for store in ("disk", "stream")
        )
        assert streamed.digest == stored.digest
        ours, theirs = stored.batch(rows), streamed.batch(rows)
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert ours[name].dtype == theirs[name].dtype
        np.testing.assert_array_equal(ours[name], theirs[name])
    np.testing.assert_array_equal(np.array(stored.array), stored.array[np.arange(len(IDS))])


def test_images_kept_at_their_own_size_are_opened_without_decoding(small_data, tmp_path):
    first = open_store(small_data, tmp_path / "cache")
    seen = []
    with open_source("folder", str(small_data)) as source:
        read = source.reader
        object.__setattr__(source, "reader", lambda name: (seen.append(name), read(name))[1])
        again = open_image_store(source, IDS, SIDE, tmp_path / "cache", store="auto")
    assert seen == []
    np.testing.assert_array_equal(again.array[:], first.array[:])


def test_squares_of_an_earlier_run_are_used(small_data, tmp_path, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr("candle_tf.data.images.store._LEAST_SAVED", 1.0)
        squares = open_store(small_data, tmp_path / "cache")
    assert isinstance(squares.array, np.memmap)
    again = open_store(small_data, tmp_path / "cache")
    assert isinstance(again.array, np.memmap)
    assert len(list((tmp_path / "cache").glob("images-*.npy"))) == 1


@pytest.mark.parametrize("side", [SIDE, 64])
def test_what_is_decoded_is_told_in_images_or_bytes(data, tmp_path, caplog, side):
    """Images that are smaller than the squares are stored at their own size, one after another."""
    with caplog.at_level(logging.INFO, logger="absl"):
        open_store(data, tmp_path / "cache", side=side)
    own = 3 * 20 * 30 * len(IDS)
    told = (
        f"computing {own} of {own} bytes"
        if side == 64
        else f"computing {len(IDS)} of {len(IDS)} images"
    )
    assert f"images: {told}" in caplog.text

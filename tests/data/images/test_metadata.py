"""Metadata that decoding does not use never decide whether an image can be read, or its pixels."""

import io

import numpy as np
import pytest
from PIL import Image

from candle_tf.data.images.decode import decode_image
from candle_tf.data.images.metadata import drop_metadata
from candle_tf.data.images.orientation import MAX_SEGMENTS
from candle_tf.errors import UserError
from tests.data.images.metadata_files import (
    PLAIN,
    chunk,
    cut_jpegs,
    cut_pngs,
    damaged_metadata,
    insert,
    refused_files,
    segment,
    sound_metadata,
)

DAMAGED, SOUND, REFUSED = damaged_metadata(), sound_metadata(), refused_files()
CUT = cut_pngs() | cut_jpegs()


@pytest.mark.parametrize("name", DAMAGED)
def test_damaged_or_large_metadata_are_no_error(name):
    expected = decode_image(PLAIN[name.split()[0]], "x")
    np.testing.assert_array_equal(decode_image(DAMAGED[name], "x"), expected)


@pytest.mark.parametrize("name", SOUND)
def test_pixels_of_sound_files_are_pillows(name):
    with Image.open(io.BytesIO(SOUND[name])) as image:
        expected = np.asarray(image.convert("RGB"))
    np.testing.assert_array_equal(decode_image(SOUND[name], "x"), expected)


def test_adobes_marker_decides_the_colours():
    """So that the test above would fail without it."""
    for one, other in (("CMYK JPEG", "YCCK JPEG"),
                       ("RGB JPEG", "RGB JPEG that Adobe's marker makes YCbCr")):  # fmt: skip
        assert (decode_image(SOUND[one], "x") != decode_image(SOUND[other], "x")).mean() > 0.5


@pytest.mark.parametrize("name", REFUSED)
def test_damage_of_the_pixels_stays_an_error(name):
    with pytest.raises(UserError, match=r"cats/7\.png: not a readable image \("):
        decode_image(REFUSED[name], "cats/7.png")


@pytest.mark.parametrize("name", CUT)
def test_a_file_without_its_end_is_truncated(name):
    with pytest.raises(UserError, match=r"cats/7\.png: not a readable image \(OSError: .*runcated"):
        decode_image(CUT[name], "cats/7.png")


@pytest.mark.parametrize("name", cut_jpegs())
def test_pillow_reads_pixels_of_zeros(name):
    with Image.open(io.BytesIO(CUT[name])) as image:
        image.load()


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
@pytest.mark.parametrize("more", [b"more", b"\xff\xda", PLAIN["JPEG"][:-2]])
def test_bytes_behind_the_end_are_no_error(kind, more):
    expected = decode_image(PLAIN[kind], "x")
    np.testing.assert_array_equal(decode_image(PLAIN[kind] + more, "x"), expected)


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (REFUSED["PNG, wrong checksum of IHDR"], "PNG"),
        (REFUSED["JPEG without a frame"], "JPEG"),
        (b"GIF89a", "GIF"),
        (b"BM" + bytes(9), "BMP"),
    ],
)
def test_a_damaged_file_is_not_taken_for_another_format(data, kind):
    with pytest.raises(UserError, match=rf"x: not a readable image \(damaged {kind} data\)"):
        decode_image(data, "x")


def test_nothing_of_the_metadata_is_left():
    image = insert(PLAIN["PNG"], chunk(b"tEXt", b"a\0secret"))
    assert drop_metadata(image) == PLAIN["PNG"]
    photo = insert(PLAIN["JPEG"], segment(0xE1, b"Exif\0\0secret") + segment(0xFE, b"secret"))
    assert drop_metadata(photo) == PLAIN["JPEG"]


@pytest.mark.parametrize(
    "data", [b"", b"GIF89a", b"\xff\xd8", b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"]
)
def test_what_has_no_structure_is_left_as_it_is(data):
    assert drop_metadata(data) == data


def test_files_of_very_many_chunks_and_segments_are_decoded():
    many = MAX_SEGMENTS * 50
    for kind, part in (("PNG", chunk(b"teSt", b"")), ("JPEG", segment(0xE5, b""))):
        expected = decode_image(PLAIN[kind], "x")
        np.testing.assert_array_equal(decode_image(insert(PLAIN[kind], many * part), "x"), expected)

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from candle_tf.data.images.decode import MAX_PIXELS, MAX_RATIO, decode_image
from candle_tf.data.images.orientation import MAX_SEGMENTS, read_orientation
from candle_tf.errors import UserError
from tests.data.images.exif_blocks import count_outcomes


def encode(image: Image.Image, kind: str, **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def noise(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8)


@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("BMP", {}), ("WEBP", {"lossless": True})]
)
def test_lossless_formats_keep_every_pixel(kind, options):
    pixels = noise(5, 7)
    decoded = decode_image(encode(Image.fromarray(pixels), kind, **options), "x")
    assert decoded.dtype == np.uint8
    assert decoded.flags.writeable
    np.testing.assert_array_equal(decoded, pixels)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda p: p),
        (2, lambda p: p[:, ::-1]),
        (3, lambda p: p[::-1, ::-1]),
        (4, lambda p: p[::-1]),
        (5, lambda p: p.transpose(1, 0, 2)),
        (6, lambda p: np.rot90(p, -1)),
        (7, lambda p: p[::-1, ::-1].transpose(1, 0, 2)),
        (8, lambda p: np.rot90(p, 1)),
    ],
)
def test_exif_orientation_is_applied(orientation, upright):
    pixels = noise(4, 6)
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encode(Image.fromarray(pixels), "PNG", exif=exif), "x")
    np.testing.assert_array_equal(decoded, upright(pixels))


def test_grey_becomes_three_equal_channels():
    grey = noise(4, 5)[..., 0]
    decoded = decode_image(encode(Image.fromarray(grey), "PNG"), "x")
    np.testing.assert_array_equal(decoded, np.stack([grey] * 3, axis=-1))


def test_16_bit_grey_is_scaled_not_clipped():
    wide = np.array([[0, 257, 128 * 257 + 100, 65535]], np.uint16)
    decoded = decode_image(encode(Image.fromarray(wide), "PNG"), "x")
    np.testing.assert_array_equal(decoded[0, :, 1], [0, 1, 128, 255])


def png_of(array: np.ndarray, colour_type: int) -> bytes:
    """A PNG written by hand: uint8 or uint16 [H, W, channels], big-endian, no filter."""
    height, width = array.shape[:2]
    depth = 8 * array.dtype.itemsize
    rows = array.astype(array.dtype.newbyteorder(">")).reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, depth, colour_type, 0, 0, 0)
    body = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    data = b"\x89PNG\r\n\x1a\n"
    for name, chunk in ((b"IHDR", header), (b"IDAT", body), (b"IEND", b"")):
        data += struct.pack(">I", len(chunk)) + name + chunk
        data += struct.pack(">I", zlib.crc32(name + chunk))
    return data


def test_16_bit_colours_are_brought_to_8_bits():
    wide = np.random.default_rng(0).integers(0, 2**16, (4, 5, 3), np.uint16)
    decoded = decode_image(png_of(wide, 2), "x")
    np.testing.assert_allclose(decoded, wide / 257, atol=1)


@pytest.mark.parametrize(("colour_type", "channels"), [(6, 4), (4, 2)])
def test_16_bit_alpha_is_composited_on_white(colour_type, channels):
    wide = np.random.default_rng(1).integers(0, 2**16, (4, 5, channels), np.uint16)
    decoded = decode_image(png_of(wide, colour_type), "x")
    alpha = wide[..., -1:] / 65535
    expected = alpha * wide[..., :-1] / 257 + (1 - alpha) * 255
    np.testing.assert_allclose(decoded, np.broadcast_to(expected, decoded.shape), atol=2)


def test_inverted_cmyk_is_told_by_adobes_marker():
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 0] = 255  # cyan
    data = encode(Image.fromarray(ink, mode="CMYK"), "JPEG", quality=100)
    assert b"Adobe" in data
    # Stored inverted, as Photoshop does: the bytes of the first channel are dark where ink is.
    np.testing.assert_allclose(decode_image(data, "x")[8, 8], [0, 255, 255], atol=3)


def test_one_bit_is_black_and_white():
    bits = Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8)).convert("1")
    decoded = decode_image(encode(bits, "PNG"), "x")
    np.testing.assert_array_equal(decoded[..., 2], [[0, 255], [255, 0]])


def test_palette_shows_its_colours():
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    decoded = decode_image(encode(palette, "PNG"), "x")
    np.testing.assert_array_equal(decoded, [[[255, 0, 0], [0, 0, 255]]])


def test_alpha_is_composited_on_white():
    rgba = np.array([[[200, 0, 100, 255], [200, 0, 100, 0], [0, 0, 0, 51]]], np.uint8)
    decoded = decode_image(encode(Image.fromarray(rgba), "PNG"), "x")
    np.testing.assert_array_equal(decoded[0, :2], [[200, 0, 100], [255, 255, 255]])
    # 51 / 255 = 0.2 of black on white.
    np.testing.assert_allclose(decoded[0, 2], 255 * 0.8, atol=1)


def test_a_transparent_palette_entry_is_white():
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), mode="P")
    palette.putpalette([255, 0, 0, 0, 0, 255])
    decoded = decode_image(encode(palette, "PNG", transparency=1), "x")
    np.testing.assert_array_equal(decoded, [[[255, 0, 0], [255, 255, 255]]])


def test_cmyk_becomes_rgb():
    # Full magenta and yellow ink: red.
    ink = np.zeros((16, 16, 4), np.uint8)
    ink[..., 1:3] = 255
    decoded = decode_image(encode(Image.fromarray(ink, mode="CMYK"), "JPEG", quality=100), "x")
    np.testing.assert_allclose(decoded[8, 8], [255, 0, 0], atol=3)


def test_an_animation_gives_its_first_frame():
    frames = [Image.new("RGB", (3, 3), colour) for colour in ("red", "lime")]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    np.testing.assert_array_equal(decode_image(data, "x"), np.full((3, 3, 3), [255, 0, 0]))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_truncated_data_is_refused(kind):
    data = encode(Image.fromarray(noise(40, 40)), kind)
    assert decode_image(data, "x").shape == (40, 40, 3)
    for length in (0, 3, len(data) // 2, len(data) * 9 // 10):
        with pytest.raises(UserError, match=r"cats/7\.jpg.*not a readable image"):
            decode_image(data[:length], "cats/7.jpg")


@pytest.mark.parametrize("data", [b"", b"<html>not found</html>", b"\x00" * 64])
def test_what_is_no_image_is_refused(data):
    with pytest.raises(UserError, match=r"a/b\.png.*no JPEG, PNG"):
        decode_image(data, "a/b.png")


def test_other_formats_are_not_decoded():
    with pytest.raises(UserError, match="no JPEG"):
        decode_image(encode(Image.fromarray(noise(4, 4)), "TIFF"), "x.jpg")


@pytest.mark.parametrize("side", [2**14, 2**16])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_decompression_bomb_is_refused_unseen(side):
    assert side**2 > MAX_PIXELS
    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(b"\x00" * 99)), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + name + body
        data += struct.pack(">I", zlib.crc32(name + body))
    with pytest.raises(UserError, match=r"bomb\.png.*pixels"):
        decode_image(data, "bomb.png")


def test_a_large_image_packed_too_tightly_is_refused():
    flat = encode(Image.new("L", (4200, 4200)), "PNG")
    assert MAX_RATIO * len(flat) < 3 * 4200**2
    with pytest.raises(UserError, match=r"flat\.png: [0-9,]+ bytes hold 4200 x 4200 pixels, over"):
        decode_image(flat, "flat.png")
    # As tight, but small: a drawing on white.
    small = encode(Image.new("L", (3000, 3000)), "PNG")
    assert MAX_RATIO * len(small) < 3 * 3000**2
    assert decode_image(small, "small.png").shape == (3000, 3000, 3)


def test_other_metadata_does_not_decide_whether_an_image_is_readable():
    # Orientation 6, and XResolution written as text.
    entries = [(0x0112, 3, 1, struct.pack("<HH", 6, 0)), (0x011A, 2, 4, b"72\0\0")]
    block = b"II*\0" + struct.pack("<IH", 8, len(entries))
    block += b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in entries) + bytes(4)
    pixels = noise(4, 6)
    for kind, prefix in (("JPEG", b"Exif\0\0"), ("PNG", b""), ("WEBP", b"Exif\0\0")):
        with_block = encode(Image.fromarray(pixels), kind, exif=prefix + block)
        plain = decode_image(encode(Image.fromarray(pixels), kind), "x")
        np.testing.assert_array_equal(decode_image(with_block, "x"), np.rot90(plain, -1))


@pytest.mark.parametrize(("before", "expected"), [(MAX_SEGMENTS - 1, 6), (MAX_SEGMENTS, 1)])
def test_an_orientation_behind_many_chunks_of_a_webp_is_not_used(before, expected):
    block = b"II*\0" + struct.pack("<IHHHIHHI", 8, 1, 0x0112, 3, 1, 6, 0, 0)
    chunks = before * (b"JUNK" + bytes(4)) + b"EXIF" + struct.pack("<I", len(block)) + block
    assert read_orientation(b"RIFF" + bytes(4) + b"WEBP" + chunks) == expected


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_any_exif_block_is_decoded_and_any_damage_is_reported_with_the_name():
    outcomes = count_outcomes(blocks=500, flips=2000)
    assert outcomes["EXIF block: decoded"] == 500
    assert outcomes["byte flips: decoded"] + outcomes["byte flips: refused"] == 2000
    assert outcomes["byte flips: decoded"]
    assert outcomes["byte flips: refused"]


@pytest.mark.parametrize("error", [TypeError, KeyError, RecursionError, MemoryError])
def test_whatever_a_decoder_raises_is_damage_of_its_file(monkeypatch, error):
    def fail(image: Image.Image) -> None:
        raise error(f"cannot load {image.mode}")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fail)
    with pytest.raises(UserError, match=r"cats/7\.jpg: not a readable image \(.*cannot load RGB"):
        decode_image(encode(Image.new("RGB", (2, 2)), "BMP"), "cats/7.jpg")

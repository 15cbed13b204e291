"""Pillow's images: the pixels that their files give."""

import io
import struct
import zlib
from collections.abc import Callable

import numpy as np
import pytest
from PIL import Image, ImageOps

from candle_tf.data.images import decode
from candle_tf.data.images.decode import convert_image, decode_image
from candle_tf.errors import UserError

RANDOM = np.random.default_rng(0)
COLOURS = RANDOM.integers(0, 256, (6, 9, 3), np.uint8)
OPACITY = RANDOM.integers(0, 256, (6, 9, 1), np.uint8)
TURNED = b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\3\0\0\0\1\0\6\0\0\0\0\0\0"  # orientation 6
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/" tiff:Orientation="6"></x:xmpmeta>'


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def wide_png(transparent: tuple[int, int, int] | None = None) -> bytes:
    """Colours of 16 bits, and one of them that is transparent."""

    def chunk(name: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)

    values = RANDOM.integers(0, 2**16, (6, 9, 3)).astype(">u2")
    values[0, 0] = transparent or 0
    rows = b"".join(b"\0" + row.tobytes() for row in values)
    parts = [chunk(b"IHDR", struct.pack(">IIBBBBB", 9, 6, 16, 2, 0, 0, 0))]
    parts += [chunk(b"tRNS", struct.pack(">HHH", *transparent))] if transparent else []
    parts += [chunk(b"IDAT", zlib.compress(rows)), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rgb() -> Image.Image:
    return Image.fromarray(COLOURS)


def rgba() -> Image.Image:
    return Image.fromarray(np.concatenate([COLOURS, OPACITY], axis=-1))


FILES: dict[str, Callable[[], bytes]] = {
    "jpeg": lambda: encode(rgb(), "JPEG"),
    "jpeg, turned": lambda: encode(rgb(), "JPEG", exif=TURNED),
    "jpeg, turned in xmp": lambda: encode(rgb(), "JPEG", xmp=XMP),
    "jpeg, cmyk": lambda: encode(rgb().convert("CMYK"), "JPEG"),
    "png, turned": lambda: encode(rgb(), "PNG", exif=TURNED),
    "png, transparent": lambda: encode(rgba(), "PNG"),
    "png, grey, transparent": lambda: encode(rgba().convert("LA"), "PNG"),
    "png, palette": lambda: encode(rgb().convert("P"), "PNG"),
    "png, palette, transparent": lambda: encode(rgba().quantize(8), "PNG"),
    "png, one bit": lambda: encode(rgb().convert("1"), "PNG"),
    "png, one transparent colour": lambda: encode(rgb(), "PNG", transparency=tuple(COLOURS[0, 0])),
    "png, grey, 16 bits": lambda: encode(
        Image.fromarray(RANDOM.integers(0, 2**16, (6, 9)).astype(np.uint16)), "PNG"
    ),
    "png, 16 bits": wide_png,
    "png, 16 bits, transparent": lambda: wide_png((65535, 258, 4000)),
    "webp, turned": lambda: encode(rgba(), "WEBP", lossless=True, exif=TURNED),
    "gif, transparent": lambda: encode(rgba(), "GIF"),
    "avif, turned": lambda: encode(rgb(), "AVIF", exif=TURNED),
}


@pytest.mark.parametrize("kind", FILES)
def test_an_opened_image_gives_the_pixels_of_its_file(kind):
    data = FILES[kind]()
    wanted = decode_image(data, "x")
    assert wanted.shape[0] == (9 if kind.endswith("turned") else 6)
    image = Image.open(io.BytesIO(data))
    before = dict(image.info)
    np.testing.assert_array_equal(convert_image(image, "x"), wanted)
    # Also where it was read before, and a copy of it.
    np.testing.assert_array_equal(convert_image(image, "x"), wanted)
    np.testing.assert_array_equal(convert_image(image.copy(), "x"), wanted)
    assert {**image.info, **before} == image.info
    assert wanted.flags.writeable


def test_an_image_that_is_turned_already_is_not_turned_again():
    image = Image.open(io.BytesIO(encode(rgb(), "PNG", exif=TURNED)))
    wanted = np.rot90(COLOURS, -1)
    np.testing.assert_array_equal(convert_image(image, "x"), wanted)
    np.testing.assert_array_equal(convert_image(ImageOps.exif_transpose(image), "x"), wanted)


def test_what_has_no_colours_is_refused(monkeypatch):
    with pytest.raises(UserError, match="x: mode F has no range"):
        convert_image(Image.new("F", (4, 4)), "x")
    with pytest.raises(UserError, match="0 x 4 pixels"):
        convert_image(Image.new("RGB", (0, 4)), "x")
    data = encode(rgb(), "PNG")
    with pytest.raises(UserError, match="no readable image"):
        convert_image(Image.open(io.BytesIO(data[:80])), "x")
    monkeypatch.setattr(decode, "MAX_PIXELS", 15)
    with pytest.raises(UserError, match="give an image of 1 to 15"):
        convert_image(Image.new("RGB", (4, 4)), "x")

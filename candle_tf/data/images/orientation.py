"""An image's EXIF orientation, read from the file's bytes.

    image = upright(image, read_orientation(data))

Nothing but the orientation is read: no other metadata decides whether an image can be decoded. The
graph of an exported model (`candle_tf.deploy.preprocessing.orientation`) follows the same rules, so
both agree on damaged metadata too. Orientations in XMP or in text chunks are not used.
"""

import re

from PIL import Image

# So many segments of a JPEG, or chunks of a PNG or WebP, are read; an orientation behind them is
# not used. A colour profile takes 255 at most. In the graph 1,024 take 0.1 to 0.3 s, and a file
# may hold a million.
MAX_SEGMENTS = 1024

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

_TAG = 0x0112
_SHORT = 3
_ENTRY = 12  # bytes of a tag's entry
_APP1, _START_OF_SCAN = 0xE1, 0xDA
_EXIF = b"Exif\0\0"
_FILL_BYTES = re.compile(rb"\xff*")

# EXIF 2.3, tag 274. Other numbers leave an image as it is stored.
_METHODS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def read_orientation(data: bytes) -> int:
    """Reads the orientation of a JPEG, PNG or WebP file.

    Args:
        data: The whole file, in any state.

    Returns:
        1..8 as EXIF counts, 1 without an orientation. Damaged metadata can give any number up to
        65,535. Never an error.
    """
    if data.startswith(b"\xff\xd8"):
        start = _find_in_jpeg(data)
    elif data.startswith(PNG_SIGNATURE):
        start = _find_in_png(data)
    elif data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        start = _find_in_webp(data)
    else:
        start = 0
    return _read_tiff(data, start) if start else 1


def read_tiff_orientation(exif: bytes) -> int:
    """The orientation of EXIF data alone, as `read_orientation` returns it.

    Args:
        exif: a TIFF structure, with or without the mark that it has in a JPEG; empty for none.
    """
    return _read_tiff(exif, len(_EXIF) if exif.startswith(_EXIF) else 0) if exif else 1


def upright(image: Image.Image, orientation: int) -> Image.Image:
    """Rotates and mirrors an image so that its top is up."""
    method = _METHODS.get(orientation)
    return image if method is None else image.transpose(method)


def skip_fill(data: bytes, at: int) -> int:
    """Behind the run of 0xFF that begins at `at`: a marker may be led in by any number of them."""
    run = _FILL_BYTES.match(data, at)
    return run.end() if run else at


def _find_in_jpeg(data: bytes) -> int:
    """Where the TIFF header in the first Exif segment begins; 0 without one."""
    at = 2
    for _ in range(MAX_SEGMENTS):
        code = skip_fill(data, at)
        marker = _number(data, code, 1)
        if code <= at or marker == _START_OF_SCAN:
            return 0
        if marker == _APP1 and data.startswith(_EXIF, code + 3):
            return code + 3 + len(_EXIF)
        at = code + 1 + _number(data, code + 1, 2)
    return 0


def _find_in_png(data: bytes) -> int:
    """Where the chunk eXIf begins, if it stands before the pixels; else 0."""
    at = len(PNG_SIGNATURE)
    for _ in range(MAX_SEGMENTS):
        if at + 8 > len(data) or data.startswith(b"IDAT", at + 4):
            return 0
        if data.startswith(b"eXIf", at + 4):
            return at + 8
        # Length, name, content, checksum.
        at += 12 + max(_to_int32(_number(data, at, 4)), 0)
    return 0


def _find_in_webp(data: bytes) -> int:
    """Where the TIFF header of the chunk EXIF begins; 0 without one."""
    at = 12
    for _ in range(MAX_SEGMENTS):
        if at + 8 > len(data):
            return 0
        if data.startswith(b"EXIF", at):
            # Some writers begin the chunk as in a JPEG.
            return at + 8 + (len(_EXIF) if data.startswith(_EXIF, at + 8) else 0)
        length = _number(data, at + 4, 4, "little")
        at += 8 + length + length % 2
    return 0


def _read_tiff(data: bytes, start: int) -> int:
    """The orientation in the first directory of a TIFF structure, or 1."""
    order = "little" if data.startswith(b"II", start) else "big"
    directory = start + _to_int32(_number(data, start + 4, 4, order))
    for entry in range(_number(data, directory, 2, order)):
        at = directory + 2 + _ENTRY * entry
        if at >= len(data):
            break
        if _number(data, at, 2, order) == _TAG and _number(data, at + 2, 2, order) == _SHORT:
            return _number(data, at + 8, 2, order)
    return 1


def _number(data: bytes, at: int, width: int, order: str = "big") -> int:
    """A whole number of `width` bytes; bytes outside of the file are 0."""
    found = bytes(data[place] if 0 <= place < len(data) else 0 for place in range(at, at + width))
    return int.from_bytes(found, "little" if order == "little" else "big")


def _to_int32(number: int) -> int:
    """32 bits as a signed number, as the graph reads them."""
    return number - 2**32 if number >= 2**31 else number

"""Files without the metadata that decoding does not use.

    image = Image.open(io.BytesIO(drop_metadata(data)))

Pillow reads all metadata when it opens a file, and refuses the image if they are damaged or large.
What decides the pixels stays as it is, damage included. The orientation is read from the whole file
(`orientation.read_orientation`).
"""

from collections.abc import Iterator

from candle_tf.data.images.orientation import MAX_SEGMENTS, PNG_SIGNATURE, skip_fill

# Of JPEG: APP0 to APP15 and comments; these and tables, frames and intervals state their length.
_APPS = range(0xE0, 0xF0)
_APP0, _APP14, _COMMENT = 0xE0, 0xEE, 0xFE
_WITH_LENGTH = {*range(0xC0, 0xD0), *range(0xDB, 0xE0), *_APPS, _COMMENT}
# What libjpeg infers the colours from: where the segment begins so, and has so many bytes.
_COLOURS = {_APP0: (b"JFIF\0", 14), _APP14: (b"Adobe", 12)}

# First bytes of a JPEG, and its end.
_JPEG = b"\xff\xd8\xff"
_EOI = b"\xff\xd9"

# Of PNG: where the header has the bits of a value, and the last chunk.
_DEPTH = slice(24, 25)
_IEND = b"\0\0\0\0IEND\xae\x42\x60\x82"


def drop_metadata(data: bytes) -> bytes:
    """A JPEG or PNG without metadata; other files as they are.

    Args:
        data: the whole file, in any state. From where its structure ends, all is kept.
    """
    if data.startswith(_JPEG):
        return _bare_jpeg(data)
    return _bare_png(data) if data.startswith(PNG_SIGNATURE) else data


def is_cut_off(data: bytes) -> bool:
    """Whether a PNG or JPEG has no end, which TensorFlow refuses and Pillow does not always miss.

    The end of a PNG is a whole chunk IEND; that of a JPEG is a marker EOI behind the first start of
    pixels. In pixels 0xFF is followed by 0, so they hold none; those of thumbnails are before them.
    """
    if data.startswith(_JPEG):
        return data.rfind(_EOI, _split_jpeg(data)[1]) < 0
    return data.startswith(PNG_SIGNATURE) and all(name != b"IEND" for name, _, _ in _chunks(data))


def _bare_jpeg(data: bytes) -> bytes:
    """Without comments, and without application segments but those that decide the colours."""
    kept, rest = _split_jpeg(data)
    return b"".join([*kept, data[rest:]])


def _split_jpeg(data: bytes) -> tuple[list[bytes], int]:
    """The segments before the pixels that are kept, and where the pixels, or damage, begin."""
    kept, at = [data[:2]], 2
    while True:
        # Other bytes before a marker are skipped, as libjpeg does.
        found = data.find(b"\xff", at)
        found = found if found >= 0 else len(data)
        code = skip_fill(data, found)
        marker = data[code] if code < len(data) else -1
        if marker == 0:  # no marker
            at = code + 1
            continue
        length = int.from_bytes(data[code + 1 : code + 3], "big")
        end = code + 1 + max(length, 2)
        if marker not in _WITH_LENGTH or end > len(data):
            return kept, max(found, code - 1)
        if _decides_pixels(marker, data[code + 3 : end]):
            kept.append(b"\xff" + data[code:end])
        at = end


def _decides_pixels(marker: int, content: bytes) -> bool:
    if marker in _COLOURS:
        start, size = _COLOURS[marker]
        return content.startswith(start) and len(content) >= size
    return marker not in _APPS and marker != _COMMENT


def _bare_png(data: bytes) -> bytes:
    """With critical chunks and the transparency alone, and nothing behind the pixels."""
    kept, at = [PNG_SIGNATURE], len(PNG_SIGNATURE)
    # Pillow compares the transparent colour of 16 bits with pixels of 8; the graph leaves it out.
    has_pixels, may_have_opacity = False, data[_DEPTH] != b"\x10"
    for number, (name, start, at) in enumerate(_chunks(data)):
        if has_pixels and name != b"IDAT":
            return b"".join([*kept, _IEND])
        # libpng uses the first of several; the graph seeks it among as many chunks.
        is_opacity = name == b"tRNS" and may_have_opacity and number < MAX_SEGMENTS
        if is_opacity or not _is_ancillary(name):
            kept.append(data[start:at])
        has_pixels |= name == b"IDAT"
        may_have_opacity &= not is_opacity
    return b"".join([*kept, data[at:]])


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yields name, start and end of each whole chunk of a PNG."""
    start = len(PNG_SIGNATURE)
    while (end := start + 12 + int.from_bytes(data[start : start + 4], "big")) <= len(data):
        yield data[start + 4 : start + 8], start, end
        start = end


def _is_ancillary(name: bytes) -> bool:
    """Whether an image can be shown without the chunk: its name's first letter is small."""
    return name.isalpha() and name[:1].islower()

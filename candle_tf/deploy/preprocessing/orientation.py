"""An image's EXIF orientation as a TensorFlow graph: phones store images rotated.

image = apply_orientation(image, read_orientation(encoded, is_png))

TensorFlow's decoders ignore EXIF; `data.images.decode` applies it.
"""

import tensorflow as tf

from candle_tf.deploy.preprocessing.file_bytes import chunk_start, matches, number

_TAG = 0x0112
_SHORT = 3
_ENTRY = 12  # bytes of a tag's entry
_APP1, _START_OF_SCAN, _FILL = 0xE1, 0xDA, 0xFF
_EXIF = b"Exif\x00\x00"


def read_orientation(encoded: tf.Tensor, is_png: tf.Tensor) -> tf.Tensor:
    """Reads the orientation of a JPEG (segment APP1) or a PNG (chunk eXIf before the pixels).

    Args:
        encoded: the file, a string scalar.
        is_png: bool scalar.

    Returns:
        int32 scalar: 1..8 as EXIF counts; 1 where the file has none; in a damaged file it may be
        any number, of which `apply_orientation` uses 2..8.
    """
    data = tf.io.decode_raw(encoded, tf.uint8)
    start = tf.cond(is_png, lambda: chunk_start(data, b"eXIf"), lambda: _in_jpeg(data))
    return tf.cond(start > 0, lambda: _in_tiff(data, start), lambda: tf.constant(1))


def apply_orientation(image: tf.Tensor, orientation: tf.Tensor) -> tf.Tensor:
    """Turns and mirrors an image, uint8 `[H, W, 3]`, so that its top is up.

    Args:
        image: as stored.
        orientation: int32 scalar; others than 2..8 leave the image as it is.

    Returns:
        uint8 `[H, W, 3]`, with 5..8 `[W, H, 3]`.
    """

    def where(values: list[int], change: tf.Tensor, image: tf.Tensor) -> tf.Tensor:
        wanted = tf.reduce_any(tf.equal(orientation, values))
        return tf.cond(wanted, lambda: change(image), lambda: image)

    image = where([5, 6, 7, 8], lambda p: tf.transpose(p, [1, 0, 2]), image)
    image = where([2, 3, 6, 7], lambda p: tf.reverse(p, [1]), image)
    return where([3, 4, 7, 8], lambda p: tf.reverse(p, [0]), image)


def _in_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Offset of the TIFF header in the first Exif segment; 0 without one."""

    def step(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        marker, length = number(data, at + 1, 1), number(data, at + 2, 2)
        is_exif = tf.equal(marker, _APP1) & matches(data, at + 4, _EXIF)
        # A marker may be led in by any number of fill bytes.
        following = tf.where(tf.equal(marker, _FILL), at + 1, at + 2 + length)
        return following, tf.where(is_exif, at + 4 + len(_EXIF), 0)

    def is_before_pixels(at: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        is_marker = tf.equal(number(data, at, 1), _FILL)
        is_header = is_marker & tf.not_equal(number(data, at + 1, 1), _START_OF_SCAN)
        return is_header & tf.equal(found, 0)

    return tf.while_loop(is_before_pixels, step, (tf.constant(2), tf.constant(0)))[1]


def _in_tiff(data: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
    """The orientation in the first directory of a TIFF structure, or 1."""
    little = matches(data, start, b"II")

    def read(at: tf.Tensor, width: int) -> tf.Tensor:
        swapped = tuple(reversed(range(width)))
        return tf.where(little, number(data, at, width, swapped), number(data, at, width))

    directory = start + read(start + 4, 4)
    entries = directory + 2 + _ENTRY * tf.range(read(directory, 2))
    is_ours = tf.equal(read(entries, 2), _TAG) & tf.equal(read(entries + 2, 2), _SHORT)
    values = tf.boolean_mask(read(entries + 8, 2), is_ours)
    return tf.concat([values, [1]], axis=0)[0]

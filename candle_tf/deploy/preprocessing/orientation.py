"""An image's EXIF orientation as a TensorFlow graph: phones store images rotated.

image = apply_orientation(image, read_orientation(encoded, is_png))

TensorFlow's decoders ignore EXIF; `data.images.decode` applies it.
"""

from collections.abc import Callable

import tensorflow as tf

from candle_tf.data.images.orientation import MAX_SEGMENTS
from candle_tf.deploy.preprocessing.file_bytes import chunk_start, matches, number

_TAG = 0x0112
_SHORT = 3
_ENTRY = 12  # bytes of a tag's entry
_APP1, _START_OF_SCAN, _FILL = 0xE1, 0xDA, 0xFF
_EXIF = b"Exif\x00\x00"
# The first bytes of an Exif segment; its length can be any.
_SEGMENT = (_FILL, _APP1, 0, 0, *_EXIF)
_IS_LENGTH = [place in (2, 3) for place in range(len(_SEGMENT))]


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
    """Offset of the TIFF header in the first Exif segment; 0 without one among `MAX_SEGMENTS`."""
    padded, size = tf.pad(data, [[0, len(_SEGMENT)]]), tf.size(data)
    last_fill = _fill_ends(data)

    def read(at: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Where the segment's marker is, behind fill bytes, and its first bytes as int32 [10]."""
        at = last_fill(at)
        start = tf.slice(padded, [tf.minimum(at, size)], [len(_SEGMENT)])
        return at, tf.cast(start, tf.int32)

    def is_exif(start: tf.Tensor) -> tf.Tensor:
        return tf.reduce_all(tf.equal(start, _SEGMENT) | _IS_LENGTH)

    def step(at: tf.Tensor, start: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return read(at + 2 + 256 * start[2] + start[3])

    def is_before_pixels(_: tf.Tensor, start: tf.Tensor) -> tf.Tensor:
        is_header = tf.equal(start[0], _FILL) & tf.not_equal(start[1], _START_OF_SCAN)
        return is_header & ~is_exif(start)

    at, start = tf.while_loop(
        is_before_pixels, step, read(tf.constant(2)), maximum_iterations=MAX_SEGMENTS - 1
    )
    return tf.where(is_exif(start), at + len(_SEGMENT), 0)


def _fill_ends(data: tf.Tensor) -> Callable[[tf.Tensor], tf.Tensor]:
    """A function from the place of a 0xFF, int32 scalar, to the last 0xFF of its run.

    A marker may be led in by any number of 0xFF. All runs are found at once, as a step for each
    byte would take minutes for 1 MB of them. Other places stay as they are.
    """
    padded, size = tf.pad(data, [[0, 1]]), tf.size(data)
    is_fill = tf.equal(padded, _FILL)
    ends = tf.where(is_fill[:-1] & ~is_fill[1:])[:, 0]
    # So that there is one behind every place.
    ends = tf.concat([tf.cast(ends, tf.int32), [size]], axis=0)

    def last_fill(at: tf.Tensor) -> tf.Tensor:
        found = tf.raw_ops.LowerBound(sorted_inputs=[ends], values=[[at]])[0, 0]
        end = ends[tf.minimum(found, tf.size(ends) - 1)]
        return tf.where(is_fill[tf.minimum(at, size)], end, at)

    return last_fill


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

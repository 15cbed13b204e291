"""Reading a file's structure in a TensorFlow graph, where no decoder gives it.

data = tf.io.decode_raw(encoded, tf.uint8)
width = number(data, tf.constant(16), 4)
start = chunk_start(data, b"eXIf")      # of a PNG; 0 without one before the pixels
"""

import tensorflow as tf

from candle_tf.data.images.orientation import MAX_SEGMENTS

_PNG_SIGNATURE = 8  # bytes
_CHUNK_HEADER = 8  # bytes of a chunk's length and name
_PLACES = (2**24, 2**16, 2**8, 1)


def chunk_start(data: tf.Tensor, name: bytes) -> tf.Tensor:
    """Where the content of a PNG's chunk begins.

    Args:
        data: the file, uint8 `[N]`.
        name: of the chunk, 4 bytes.

    Returns:
        int32 scalar; 0 where there is no such chunk before the pixels, or more than
        `MAX_SEGMENTS - 1` chunks before it.
    """
    padded, size = tf.pad(data, [[0, _CHUNK_HEADER]]), tf.size(data)
    wanted, pixels = (int.from_bytes(each, "big", signed=True) for each in (name, b"IDAT"))

    def read(at: tf.Tensor) -> tf.Tensor:
        """Length and name of the chunk, int32 [2]. Few operations: each chunk costs them."""
        header = tf.slice(padded, [tf.clip_by_value(at, 0, size)], [_CHUNK_HEADER])
        return tf.reduce_sum(tf.reshape(tf.cast(header, tf.int32), [2, 4]) * _PLACES, axis=1)

    def step(at: tf.Tensor, header: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Length, name, content, checksum.
        following = at + 12 + tf.maximum(header[0], 0)
        return following, read(following)

    def is_before_pixels(at: tf.Tensor, header: tf.Tensor) -> tf.Tensor:
        inside = (at >= 0) & (at <= size - _CHUNK_HEADER)
        return inside & tf.reduce_all(tf.not_equal(header[1], [wanted, pixels]))

    first = tf.constant(_PNG_SIGNATURE)
    at, header = tf.while_loop(
        is_before_pixels, step, (first, read(first)), maximum_iterations=MAX_SEGMENTS - 1
    )
    return tf.where(tf.equal(header[1], wanted), at + _CHUNK_HEADER, 0)


def number(
    data: tf.Tensor, at: tf.Tensor, width: int, order: tuple[int, ...] | None = None
) -> tf.Tensor:
    """Whole numbers of `width` bytes at the given places, int32; bytes beyond the file are 0.

    Args:
        data: uint8 `[N]`, N at least 1.
        at: int32 of any shape.
        width: 1..4.
        order: places of the bytes from the most significant on; big-endian where not given.
    """
    total = tf.zeros_like(at)
    for place in order or range(width):
        index = at + place
        inside = (index >= 0) & (index < tf.size(data))
        byte = tf.gather(data, tf.clip_by_value(index, 0, tf.size(data) - 1))
        total = total * 256 + tf.where(inside, tf.cast(byte, tf.int32), 0)
    return total


def matches(data: tf.Tensor, at: tf.Tensor, text: bytes) -> tf.Tensor:
    """Whether `text` is at an offset, bool scalar."""
    bytes_there = number(data, at + tf.range(len(text)), 1)
    return tf.reduce_all(tf.equal(bytes_there, list(text)))

"""Reading a file's structure in a TensorFlow graph, where no decoder gives it.

data = tf.io.decode_raw(encoded, tf.uint8)
width = number(data, tf.constant(16), 4)
start = chunk_start(data, b"eXIf")      # of a PNG; 0 without one before the pixels
"""

import tensorflow as tf

_PNG_SIGNATURE = 8  # bytes


def chunk_start(data: tf.Tensor, name: bytes) -> tf.Tensor:
    """Where the content of a PNG's chunk begins.

    Args:
        data: the file, uint8 `[N]`.
        name: of the chunk, 4 bytes.

    Returns:
        int32 scalar; 0 where there is no such chunk before the pixels.
    """

    def step(at: tf.Tensor, _: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # Length, name, content, checksum.
        found = tf.where(matches(data, at + 4, name), at + 8, 0)
        return at + 12 + tf.maximum(number(data, at, 4), 0), found

    def is_before_pixels(at: tf.Tensor, found: tf.Tensor) -> tf.Tensor:
        inside = (at >= 0) & (at + 8 <= tf.size(data))
        return inside & ~matches(data, at + 4, b"IDAT") & tf.equal(found, 0)

    first = (tf.constant(_PNG_SIGNATURE), tf.constant(0))
    return tf.while_loop(is_before_pixels, step, first)[1]


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

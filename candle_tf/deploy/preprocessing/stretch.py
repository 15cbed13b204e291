"""`data.images.store.stretch` as a TensorFlow graph: the same bits without Pillow.

square = stretch(image, 160)          # uint8 [H, W, 3] to uint8 [160, 160, 3]

A served image has to be stretched exactly as the test images were. Pillow's 8-bit resampling uses
whole numbers: weights with 22 binary places, first the columns and then the rows, each rounded to 8
bits. Floating point would give slightly different pixels.
"""

import tensorflow as tf

# Binary places of a weight: 8 bits of the pixel and one to spare fit beside them in 31.
_PLACES = 22


def stretch(image: tf.Tensor, side: int) -> tf.Tensor:
    """Resizes an image to a square, ignoring its aspect so that nothing is cut off.

    Args:
        image: uint8 `[H, W, 3]`.
        side: pixels.

    Returns:
        uint8 `[side, side, 3]`, antialiased bilinear; bit by bit as `data.images.store.stretch`.
    """
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    # The resized axis is the first, so that a row to be weighted is contiguous in memory.
    columns = tf.reshape(tf.transpose(image, [1, 0, 2]), [width, height * 3])
    narrow = tf.reshape(_resize(columns, width, side), [side, height, 3])
    rows = tf.reshape(tf.transpose(narrow, [1, 0, 2]), [height, side * 3])
    return tf.reshape(_resize(rows, height, side), [side, side, 3])


def _resize(lines: tf.Tensor, length: tf.Tensor, side: int) -> tf.Tensor:
    """uint8 `[length, M]` to uint8 `[side, M]`, one filter weight at a time to save memory."""
    places, weights = _filter_weights(length, side)
    half = tf.fill([side, tf.shape(lines)[1]], 1 << (_PLACES - 1))

    def add_line(i: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        taken = tf.cast(tf.gather(lines, places[:, i]), tf.int32)
        return i + 1, total + taken * weights[:, i, tf.newaxis]

    _, total = tf.while_loop(
        lambda i, _: i < tf.shape(weights)[1],
        add_line,
        (tf.constant(0), half),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([side, None])),
        parallel_iterations=1,
    )
    # The weights of a line sum to one but for rounding.
    values = tf.clip_by_value(tf.bitwise.right_shift(total, _PLACES), 0, 255)
    return tf.cast(values, tf.uint8)


def _filter_weights(length: tf.Tensor, side: int) -> tuple[tf.Tensor, tf.Tensor]:
    """The lines that make each new line, and their weights, both int32 `[side, T]`.

    A triangle as wide as the new pixel (or the old one, if that is wider) around the new pixel's
    centre; weights in units of 2**-22, 0 outside of it.
    """
    zero, one = tf.constant(0.0, tf.float64), tf.constant(1.0, tf.float64)
    scale = tf.cast(length, tf.float64) / side
    reach = tf.maximum(scale, one)
    centres = (tf.range(side, dtype=tf.float64) + 0.5) * scale
    first = tf.maximum(tf.cast(centres - reach + 0.5, tf.int32), 0)
    end = tf.minimum(tf.cast(centres + reach + 0.5, tf.int32), length)
    places = first[:, tf.newaxis] + tf.range(tf.reduce_max(end - first))
    distances = tf.cast(places, tf.float64) - centres[:, tf.newaxis] + 0.5
    heights = tf.maximum(one - tf.abs(distances * (one / reach)), zero)
    heights = tf.where(places < end[:, tf.newaxis], heights, zero)
    shares = heights / tf.reduce_sum(heights, axis=1, keepdims=True)
    weights = tf.cast(shares * 2.0**_PLACES + 0.5, tf.int32)
    return tf.minimum(places, length - 1), weights

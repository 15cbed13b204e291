"""`data.images.squeeze` as a TensorFlow graph: the same bits without Pillow.

square = squeezed(image, 160)         # uint8 [H, W, 3] to uint8 [160, 160, 3]

A served image has to be squeezed as the training images were, or the student sees others than
it was measured on. Pillow's 8-bit resampling is arithmetic on whole numbers: weights of 22 binary
places, the columns first and then the rows, each rounded to 8 bits. Floating point would be near
it; this is it.
"""

import tensorflow as tf

# Binary places of a weight: 8 bits of the pixel and one to spare fit beside them in 31.
_PLACES = 22


def squeezed(image: tf.Tensor, side: int) -> tf.Tensor:
    """Resizes an image to a square, ignoring its aspect so that nothing is cut off.

    Args:
        image: uint8 [H, W, 3].
        side: pixels.

    Returns:
        uint8 [side, side, 3], antialiased bilinear; bit by bit what `data.images.squeeze` gives.
    """
    shape = tf.shape(image)
    height, width = shape[0], shape[1]
    # What is resized stands first, so that a tap of the filter is one stretch of memory.
    columns = tf.reshape(tf.transpose(image, [1, 0, 2]), [width, height * 3])
    narrow = tf.reshape(_resized(columns, width, side), [side, height, 3])
    rows = tf.reshape(tf.transpose(narrow, [1, 0, 2]), [height, side * 3])
    return tf.reshape(_resized(rows, height, side), [side, side, 3])


def _resized(lines: tf.Tensor, length: tf.Tensor, side: int) -> tf.Tensor:
    """uint8 [length, M] to uint8 [side, M], one tap of the filter at a time to save memory."""
    places, weights = _taps(length, side)
    half = tf.fill([side, tf.shape(lines)[1]], 1 << (_PLACES - 1))

    def add_tap(tap: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        taken = tf.cast(tf.gather(lines, places[:, tap]), tf.int32)
        return tap + 1, total + taken * weights[:, tap, tf.newaxis]

    _, total = tf.while_loop(
        lambda tap, _: tap < tf.shape(weights)[1],
        add_tap,
        (tf.constant(0), half),
        shape_invariants=(tf.TensorShape([]), tf.TensorShape([side, None])),
        parallel_iterations=1,
    )
    # The weights of a line sum to one but for rounding.
    values = tf.clip_by_value(tf.bitwise.right_shift(total, _PLACES), 0, 255)
    return tf.cast(values, tf.uint8)


def _taps(length: tf.Tensor, side: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Which lines make each new line, int32 [side, T], and how much of each, int32 [side, T].

    A triangle as wide as the new pixel (or the old one, if that is wider) around the new pixel's
    centre; weights in units of 2**-22, 0 where there is no tap.
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

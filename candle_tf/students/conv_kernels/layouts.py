"""Memory layouts by which a convolution is computed as matrix products."""

import numpy as np
import tensorflow as tf


def pixels_first(x: tf.Tensor) -> tf.Tensor:
    """[N, H, W, C] to [H * W, N, C], in which a pixel of all images is one run of rows."""
    _, height, width, channels = x.shape
    return tf.transpose(tf.reshape(x, [-1, height * width, channels]), [1, 0, 2])


def im2col(padded: tf.Tensor, window: int, stride: int) -> tf.Tensor:
    """Each window of a padded map as one row: [N, H, W, C] to [N * H' * W', window^2 * C]."""
    _, height, width, channels = padded.shape
    if window == 1 and stride == 1:
        return tf.reshape(padded, [-1, channels])
    # A gather copies whole runs of channels; slices and a concatenation move everything twice.
    pixels = _window_pixels(height, width, window, stride)
    rows = tf.gather(tf.reshape(padded, [-1, height * width, channels]), pixels.ravel(), axis=1)
    return tf.reshape(rows, [-1, window * window * channels])


def _window_pixels(height: int, width: int, window: int, stride: int) -> np.ndarray:
    """Index of each pixel of each window, int32 [H' * W', window^2]."""
    tops = np.arange(0, height - window + 1, stride)
    lefts = np.arange(0, width - window + 1, stride)
    inner = np.arange(window)
    rows = tops[:, None, None, None] + inner[None, None, :, None]
    columns = lefts[None, :, None, None] + inner[None, None, None, :]
    pixels = rows * width + columns
    return pixels.reshape(len(tops) * len(lefts), window * window).astype(np.int32)

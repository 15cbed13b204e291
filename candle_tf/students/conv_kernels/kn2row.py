"""Convolutions of tiny maps: for each tap one matrix product, over the pixels that lie under it.

    y, gradients = convolve_by_kn2row(x, kernel, pad_value=1.0, stride=1)

On a map of 2x2 pixels more than half of what a 3x3 kernel covers is padding: of the 36 pairs of an
output and a tap only 16 have a pixel, and only these are multiplied. What padding adds to an output
is a constant of each channel once it is taken off the pixels: with x' = x - pad, 0 outside,

    y = conv(x', kernel) + pad * (the kernel's sum over taps and input channels).

That sum comes with the products, from a row of padding under the pixels of each tap.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from candle_tf.students.conv_kernels.convolved import Convolved, pixels_first
from candle_tf.students.conv_kernels.padding import same_padding


class _Tap(NamedTuple):
    """Pairs of a pixel that lies under the tap and the output that it adds to, int32 each."""

    pixels: np.ndarray
    outputs: np.ndarray


def convolve_by_kn2row(x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int) -> Convolved:
    """A "same" convolution; its output is float32.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [k, k, C, C'].
        pad_value: what lies around x.
        stride: of both sides, at most k.
    """
    window, _, channels, filters = kernel.shape
    sides = x.shape[1:3]
    outputs = [-(-side // stride) for side in sides]
    taps = _taps(*sides, window, stride)
    matrices = tf.unstack(tf.reshape(kernel, [-1, channels, filters]))
    pad = tf.cast(pad_value, x.dtype)
    pixels = pixels_first(x - pad)
    # Of each tap: the images of its first pixel, of its second, ..., and padding.
    rows = [_rows(pixels, tap.pixels, tf.fill([1, channels], pad)) for tap in taps]
    products = [tf.cast(a @ b, tf.float32) for a, b in zip(rows, matrices, strict=True)]
    constant = tf.add_n([product[-1] for product in products])
    inner = [product[:-1] for product in products]
    y = _sums(inner, [tap.outputs for tap in taps], outputs) + constant

    def gradients(for_x: tf.Tensor, for_kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        flow = pixels_first(for_x)
        back = [
            tf.cast(tf.matmul(_rows(flow, tap.outputs), matrix, transpose_b=True), tf.float32)
            for tap, matrix in zip(taps, matrices, strict=True)
        ]
        to_x = _sums(back, [tap.pixels for tap in taps], sides)
        flow = pixels_first(for_kernel)
        # The constant is part of every output.
        total = tf.cast(tf.reduce_sum(tf.cast(flow, tf.float32), [0, 1])[None], x.dtype)
        to_matrices = [
            tf.matmul(a, _rows(flow, tap.outputs, total), transpose_a=True)
            for a, tap in zip(rows, taps, strict=True)
        ]
        return tf.cast(to_x, x.dtype), tf.reshape(tf.stack(to_matrices), kernel.shape)

    return Convolved(y, gradients)


@functools.lru_cache
def _taps(height: int, width: int, window: int, stride: int) -> tuple[_Tap, ...]:
    """The pairs of each tap of a kernel, in the kernel's order."""
    under = [_under(side, window, stride) for side in (height, width)]
    across = under[1].shape[1]
    taps = []
    for rows, columns in ((a, b) for a in under[0] for b in under[1]):
        inside = (rows >= 0)[:, None] & (columns >= 0)
        pixels = (rows[:, None] * width + columns)[inside]
        down, right = np.nonzero(inside)
        taps.append(_Tap(pixels.astype(np.int32), (down * across + right).astype(np.int32)))
    return tuple(taps)


def _under(side: int, window: int, stride: int) -> np.ndarray:
    """Along one side: the pixel under each tap at each output, [window, outputs]; -1 for none."""
    before, _ = same_padding(side, window, stride)
    starts = np.arange(-(-side // stride)) * stride - before
    pixels = starts + np.arange(window)[:, None]
    return np.where((pixels >= 0) & (pixels < side), pixels, -1)


def _rows(pixels: tf.Tensor, which: np.ndarray, last: tf.Tensor | None = None) -> tf.Tensor:
    """Some pixels of all images, one below the other, and another row: [pairs * N (+ 1), C]."""
    rows = tf.reshape(tf.gather(pixels, which), [-1, pixels.shape[-1]])
    return rows if last is None else tf.concat([rows, last], 0)


def _sums(parts: list[tf.Tensor], places: list[np.ndarray], sides: Sequence[int]) -> tf.Tensor:
    """Adds each tap's rows, [pairs * N, C], where they belong: [N, H, W, C]."""
    added: list[list[tf.Tensor]] = [[] for _ in range(sides[0] * sides[1])]
    channels = parts[0].shape[-1]
    for part, where in zip(parts, places, strict=True):
        if len(where):
            pieces = tf.unstack(tf.reshape(part, [len(where), -1, channels]))
            for place, piece in zip(where, pieces, strict=True):
                added[place].append(piece)
    y = tf.stack([tf.add_n(each) for each in added], axis=1)
    return tf.reshape(y, [-1, *sides, channels])

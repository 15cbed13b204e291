"""Convolutions of tiny maps by kn2row: for each position of the kernel one matrix product.

    y, gradients = conv(x, kernel, pad_value=1.0, stride=1)

Source: Vasudevan et al., "Parallel Multi Channel Convolution using General Matrix Multiplication"
(ASAP 2017), with pixels under the padding left out. On a map of 2x2 pixels more than half of what a
3x3 kernel covers is padding: of the 36 pairs of an output and a kernel position only 16 have a
pixel, and only these are multiplied. What padding adds to an output is a constant of each channel
once the padding's value is subtracted from the pixels: with x' = x - pad, 0 outside,

    y = conv(x', kernel) + pad * (the kernel's sum over its positions and input channels).

That sum comes with the products, from a row of padding below the pixels of each position.
"""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from candle_tf.students.conv_kernels.implementation import ConvResult, output_sides
from candle_tf.students.conv_kernels.layouts import pixels_first
from candle_tf.students.conv_kernels.padding import same_padding

# Channels, in and out, from which this implementation was measured to be faster than the direct
# one, output and gradients together (`python -m tools.bench --rows=conv_kernels`): on 2x2 pixels it
# takes .5 to .9 of the time at 512 and a third at 1,024.
MIN_CHANNELS = 256
# Side of the output map up to which it is faster than Winograd's algorithm.
MAX_SIDE = 2


class _Position(NamedTuple):
    """Pairs of a pixel under one position of the kernel and the output it adds to, int32 each."""

    pixels: np.ndarray
    outputs: np.ndarray


def supports(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> bool:
    """Tiny output maps with many channels."""
    window = kernel.shape[0]
    return (
        window > 1
        and window >= stride
        and max(output_sides(x, stride)) <= MAX_SIDE
        and min(kernel.shape[2:]) >= MIN_CHANNELS
    )


def conv(x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int) -> ConvResult:
    """A "same" convolution; its output is float32.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [k, k, C, C'].
        pad_value: value of the padding around x.
        stride: of both sides, at most k.

    Raises:
        ValueError: for a stride above k, which leaves pixels out.
    """
    window, _, channels, filters = kernel.shape
    if stride > window:
        raise ValueError(f"kn2row has no stride of {stride} for a kernel of {window}x{window}")
    sides = x.shape[1:3]
    positions = _positions(*sides, window, stride)
    matrices = tf.unstack(tf.reshape(kernel, [-1, channels, filters]))
    pad = tf.cast(pad_value, x.dtype)
    pixels = pixels_first(x - pad)
    # Of each position: the images of its first pixel, of its second, ..., and padding.
    rows = [_rows(pixels, each.pixels, tf.fill([1, channels], pad)) for each in positions]
    products = [tf.cast(a @ b, tf.float32) for a, b in zip(rows, matrices, strict=True)]
    constant = tf.add_n([product[-1] for product in products])
    inner = [product[:-1] for product in products]
    y = _sums(inner, [each.outputs for each in positions], output_sides(x, stride)) + constant

    def gradients(for_x: tf.Tensor, for_kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        dy = pixels_first(for_x)
        to_pixels = [
            tf.cast(tf.matmul(_rows(dy, each.outputs), matrix, transpose_b=True), tf.float32)
            for each, matrix in zip(positions, matrices, strict=True)
        ]
        to_x = _sums(to_pixels, [each.pixels for each in positions], sides)
        dy = pixels_first(for_kernel)
        # The constant is part of every output.
        total = tf.cast(tf.reduce_sum(tf.cast(dy, tf.float32), [0, 1])[None], x.dtype)
        to_matrices = [
            tf.matmul(a, _rows(dy, each.outputs, total), transpose_a=True)
            for a, each in zip(rows, positions, strict=True)
        ]
        return tf.cast(to_x, x.dtype), tf.reshape(tf.stack(to_matrices), kernel.shape)

    return ConvResult(y, gradients)


@functools.lru_cache
def _positions(height: int, width: int, window: int, stride: int) -> tuple[_Position, ...]:
    """The pairs of each position of a kernel, in the kernel's order."""
    down, across = (_pixels_along(side, window, stride) for side in (height, width))
    output_width = across.shape[1]
    positions = []
    for rows, columns in ((a, b) for a in down for b in across):
        inside = (rows >= 0)[:, None] & (columns >= 0)
        pixels = (rows[:, None] * width + columns)[inside]
        row, column = np.nonzero(inside)
        outputs = row * output_width + column
        positions.append(_Position(pixels.astype(np.int32), outputs.astype(np.int32)))
    return tuple(positions)


def _pixels_along(side: int, window: int, stride: int) -> np.ndarray:
    """Along one side: pixel of each kernel position at each output, [window, outputs]; -1: none."""
    before, _ = same_padding(side, window, stride)
    starts = np.arange(-(-side // stride)) * stride - before
    pixels = starts + np.arange(window)[:, None]
    return np.where((pixels >= 0) & (pixels < side), pixels, -1)


def _rows(pixels: tf.Tensor, indices: np.ndarray, last: tf.Tensor | None = None) -> tf.Tensor:
    """Some pixels of all images, one below the other, and another row: [pairs * N (+ 1), C]."""
    rows = tf.reshape(tf.gather(pixels, indices), [-1, pixels.shape[-1]])
    return rows if last is None else tf.concat([rows, last], 0)


def _sums(products: list[tf.Tensor], targets: list[np.ndarray], sides: Sequence[int]) -> tf.Tensor:
    """Adds the rows of each position, [pairs * N, C], to their target pixels: [N, H, W, C]."""
    summands: list[list[tf.Tensor]] = [[] for _ in range(sides[0] * sides[1])]
    channels = products[0].shape[-1]
    for product, pixels in zip(products, targets, strict=True):
        if len(pixels):
            rows = tf.unstack(tf.reshape(product, [len(pixels), -1, channels]))
            for pixel, row in zip(pixels, rows, strict=True):
                summands[pixel].append(row)
    y = tf.stack([tf.add_n(each) for each in summands], axis=1)
    return tf.reshape(y, [-1, *sides, channels])

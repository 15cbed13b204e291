"""3x3 convolutions of stride 1 with 2.25 times fewer products: Winograd's F(2x2, 3x3).

    y, gradients = conv(x, kernel, pad_value=1.0, stride=1)
    to_x, to_kernel = gradients(dy, dy)

Source: Lavin & Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016). The output is
cut into tiles of 2x2 pixels. The 4x4 window d under each tile and each 3x3 kernel g are transformed
to 4x4 values, B d B^T and G g G^T; these are multiplied element by element and summed over
channels, which is one matrix product for each of the 16 elements; A (...) A^T of the sums is the
tile.

With +-1 operands the transforms round nothing, in bfloat16 neither: B d B^T holds whole numbers up
to 4 and G g G^T quarters up to 9/4. Only the sums over channels are rounded. The transforms are
products as well, of small constant matrices with all images and channels at once.
"""

import functools
from dataclasses import dataclass, replace

import numpy as np
import tensorflow as tf

from candle_tf.students.conv_kernels.implementation import ConvResult
from candle_tf.students.conv_kernels.layouts import pixels_first

# Channels, in and out, from which this implementation was measured to be faster than the direct
# one, output and gradients together (`python -m tools.bench --rows=conv_kernels`): it takes .87 to
# .96 of the time at 128, and more of it at 64.
MIN_CHANNELS = 128

# B, G and A of one axis; those of two axes are their Kronecker products.
_B = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], np.float64)
_G = np.array([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], np.float64)
_A = np.array([[1, 1, 1, 0], [0, 1, -1, -1]], np.float64)
# The 16 elements of G g G^T, in the order that they have where g is rotated by 180 degrees.
_ROTATED = np.arange(16).reshape(4, 4)[np.ix_([3, 1, 2, 0], [3, 1, 2, 0])].ravel()

# Tiles along each side of a block. A block's transform is one dense matrix, whose cost grows with
# the block; the smaller the blocks, the more pixels are read by two of them.
_TILES = 2


def supports(x: tf.Tensor, kernel: tf.Tensor, stride: int) -> bool:
    """3x3 kernels of stride 1 with many channels."""
    del x
    return _computes(kernel, stride) and min(kernel.shape[2:]) >= MIN_CHANNELS


def _computes(kernel: tf.Tensor, stride: int) -> bool:
    return kernel.shape[0] == 3 and stride == 1


def conv(x: tf.Tensor, kernel: tf.Tensor, pad_value: float, stride: int) -> ConvResult:
    """A "same" convolution of stride 1.

    Args:
        x: float32 or bfloat16 [N, H, W, C] with known H, W and C.
        kernel: of x's dtype, [3, 3, C, C'].
        pad_value: value of the padding around x.
        stride: 1.

    Raises:
        ValueError: for another size of the kernel or another stride.
    """
    if not _computes(kernel, stride):
        raise ValueError(
            f"Winograd's algorithm is for 3x3 kernels of stride 1: a kernel of shape "
            f"{tuple(kernel.shape)}, stride {stride}"
        )
    tiling, rotated = _tilings(*x.shape[1:3])
    channels = kernel.shape[2]
    transform = tf.constant(np.kron(_G, _G), x.dtype)
    kernels = tf.reshape(transform @ tf.reshape(kernel, [9, -1]), [16, channels, -1])
    windows = tiling.windows(x, pad_value)
    y = tiling.pixels(windows @ kernels)

    def gradients(for_x: tf.Tensor, for_kernel: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        # The convolution, padded with 0, with the kernel rotated and its channels swapped.
        products = tf.matmul(rotated.windows(for_x, 0.0), kernels, transpose_b=True)
        sums = tf.matmul(windows, tiling.tiles(for_kernel), transpose_a=True)
        to_kernel = tf.matmul(transform, tf.reshape(sums, [16, -1]), transpose_a=True)
        return rotated.pixels(products), tf.reshape(to_kernel, tf.shape(kernel))

    return ConvResult(y, gradients)


@dataclass(frozen=True)
class _Tiling:
    """A map's blocks, which may extend beyond its lower and right edge, and their transforms.

    Attributes:
        sides: height and width of the map.
        blocks: blocks (down, across).
        block: height and width of a block, which has T tiles.
        reads: int32 [R, blocks], the R pixels that a block reads; the map's size means padding.
            None where the map is one block, which reads every pixel and the padding once.
        to_windows: [16 T, R], from these pixels to the tiles' transformed windows.
        to_pixels: [height * width of a block, 16 T], from products to the block's pixels.
    """

    sides: tuple[int, int]
    blocks: tuple[int, int]
    block: tuple[int, int]
    reads: np.ndarray | None
    to_windows: np.ndarray
    to_pixels: np.ndarray

    def windows(self, x: tf.Tensor, pad_value: float) -> tf.Tensor:
        """B d B^T of every tile: [N, H, W, C] to [16, tiles * N, C]."""
        channels = x.shape[-1]
        rows = tf.reshape(pixels_first(x), [np.prod(self.sides), -1])
        rows = tf.concat([rows, tf.fill([1, tf.shape(rows)[1]], tf.cast(pad_value, x.dtype))], 0)
        if self.reads is not None:
            rows = tf.reshape(tf.gather(rows, self.reads), [len(self.reads), -1])
        return tf.reshape(tf.constant(self.to_windows, x.dtype) @ rows, [16, -1, channels])

    def pixels(self, products: tf.Tensor) -> tf.Tensor:
        """A (...) A^T of every tile: [16, tiles * N, C'] to [N, H, W, C']."""
        (height, width), (down, across), (high, wide) = self.sides, self.blocks, self.block
        filters = products.shape[-1]
        matrix = tf.constant(self.to_pixels, products.dtype)
        y = matrix @ tf.reshape(products, [matrix.shape[1], -1])
        y = tf.reshape(y, [high, wide, down, across, -1, filters])
        y = tf.transpose(y, [4, 2, 0, 3, 1, 5])
        y = tf.reshape(y, [-1, down * high, across * wide, filters])
        return y[:, :height, :width]

    def tiles(self, dy: tf.Tensor) -> tf.Tensor:
        """The adjoint of `pixels`: [N, H, W, C'] to [16, tiles * N, C']."""
        (height, width), (down, across), (high, wide) = self.sides, self.blocks, self.block
        filters = dy.shape[-1]
        beyond = (0, 0), (0, down * high - height), (0, across * wide - width), (0, 0)
        dy = tf.reshape(tf.pad(dy, beyond), [-1, down, high, across, wide, filters])
        dy = tf.reshape(tf.transpose(dy, [2, 4, 1, 3, 0, 5]), [high * wide, -1])
        matrix = tf.constant(self.to_pixels, dy.dtype)
        return tf.reshape(tf.matmul(matrix, dy, transpose_a=True), [16, -1, filters])


@functools.lru_cache
def _tilings(height: int, width: int) -> tuple[_Tiling, _Tiling]:
    """The tiling of a map for a kernel, and that for the kernel rotated by 180 degrees."""
    (down, tall), (across, broad) = (_blocks(side) for side in (height, width))
    to_windows = np.einsum("aiu,bjv->abijuv", _along(_B, tall), _along(_B, broad))
    to_pixels = np.einsum("aiu,bjv->uvabij", _along(_A.T, tall), _along(_A.T, broad))
    elements = 16, tall * broad
    to_windows = to_windows.reshape(*elements, -1)
    to_pixels = to_pixels.reshape(-1, *elements)
    reads = _reads((height, width), (down, across), (2 * tall, 2 * broad))
    if reads.shape[1] == 1:
        # All padding has one value: its columns are summed to one, after those of the pixels.
        outside = reads[:, 0] == height * width
        pad = to_windows[..., outside].sum(-1, keepdims=True)
        to_windows = np.concatenate([to_windows[..., ~outside], pad], -1)
    tiling = _Tiling(
        sides=(height, width),
        blocks=(down, across),
        block=(2 * tall, 2 * broad),
        reads=reads if reads.shape[1] > 1 else None,
        to_windows=to_windows.reshape(-1, to_windows.shape[-1]),
        to_pixels=to_pixels.reshape(len(to_pixels), -1),
    )
    rotated = replace(
        tiling,
        to_windows=to_windows[_ROTATED].reshape(tiling.to_windows.shape),
        to_pixels=to_pixels[:, _ROTATED].reshape(tiling.to_pixels.shape),
    )
    return tiling, rotated


def _blocks(side: int) -> tuple[int, int]:
    """Along one side: how many blocks, and how many tiles in each."""
    tiles = min(_TILES, -(-side // 2))
    return -(-side // (2 * tiles)), tiles


def _along(matrix: np.ndarray, tiles: int) -> np.ndarray:
    """A one-axis transform [4, n] at each tile of a block: [4, tiles, pixels of the block]."""
    size = matrix.shape[1]
    result = np.zeros((4, tiles, 2 * tiles + size - 2))
    for tile in range(tiles):
        result[:, tile, 2 * tile : 2 * tile + size] = matrix
    return result


def _reads(sides: tuple[int, int], blocks: tuple[int, int], block: tuple[int, int]) -> np.ndarray:
    """The pixels that each block reads, [(h + 2)(w + 2), blocks]; the map's size for padding."""
    pixels = np.full([b * s + 2 for b, s in zip(blocks, block, strict=True)], np.prod(sides))
    pixels[1 : sides[0] + 1, 1 : sides[1] + 1] = np.arange(np.prod(sides)).reshape(sides)
    views = np.lib.stride_tricks.sliding_window_view(pixels, [side + 2 for side in block])
    starts = views[:: block[0], :: block[1]]
    return starts.reshape(blocks[0] * blocks[1], -1).T.astype(np.int32)

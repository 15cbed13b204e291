"""The implementations of a binary convolution in training, compared with the direct one.

conv_kernel_times("bfloat16", 32)["4x4 of 512"]["winograd"]["median"]   # time over the direct one's
"""

from collections.abc import Sequence

import numpy as np
import tensorflow as tf

from candle_tf.students.conv_kernels.implementation import ConvImplementation
from candle_tf.students.conv_kernels.registry import IMPLEMENTATIONS
from candle_tf.timing import Side, alternate
from tools.benchmarks.growth import Growth, over_the_first

# The first is what the others are compared with.
NAMES = ("direct", *(name for name in IMPLEMENTATIONS if name != "direct"))
# (side of the map, channels): ReActNet-A's at 64 px, at full width and at half of it.
SHAPES = (
    (2, 1024),
    (4, 512),
    (8, 256),
    (16, 128),
    (2, 512),
    (4, 256),
    (8, 128),
    (16, 64),
    (32, 32),
)
# Side of the largest map that an implementation is timed on: on larger ones it is far slower.
_MAX_SIDES = {"kn2row": 4}


def conv_kernel_times(
    precision: str,
    images: int,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    repeats: int = 5,
) -> dict[str, Growth]:
    """Times output and gradients of a 3x3 convolution of stride 1 by each implementation.

    Args:
        precision: "float32" or "bfloat16", of the operands.
        images: N.
        shapes: (side of a square map, channels in and out).
        repeats: rounds.

    Returns:
        By shape ("4x4 of 512") and implementation, time over that of the direct one; see
        `growth.over_the_first`, where a unit is one convolution.
    """
    figures = {}
    for side, channels in shapes:
        rng = np.random.default_rng(0)
        x = tf.cast(rng.choice([-1.0, 1.0], (images, side, side, channels)), precision)
        kernel = tf.cast(rng.choice([-0.5, 0.5], (3, 3, channels, channels)), precision)
        dy = tf.cast(rng.normal(size=x.shape), precision)
        names = [name for name in NAMES if side <= _MAX_SIDES.get(name, side)]
        sides = {name: _convolution(IMPLEMENTATIONS[name], x, kernel, dy) for name in names}
        seconds = alternate(sides, repeats, warmup=2)
        figures[f"{side}x{side} of {channels}"] = over_the_first(seconds, dict.fromkeys(sides, 1))
    return figures


def _convolution(
    implementation: ConvImplementation, x: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor
) -> Side:
    @tf.function(autograph=False)
    def compute(x: tf.Tensor, kernel: tf.Tensor, dy: tf.Tensor) -> tuple[tf.Tensor, ...]:
        y, gradients = implementation.conv(x, kernel, 1.0, 1)
        return (y, *gradients(dy, dy))

    def run() -> None:
        for value in compute(x, kernel, dy):
            value.numpy()

    return run

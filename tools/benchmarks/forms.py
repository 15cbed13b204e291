"""The forms of a binary convolution in training, against the direct one.

form_times("bfloat16", 32)["4x4 of 512"]["winograd"]["median"]   # time over that of the direct form
"""

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np
import tensorflow as tf

from candle_tf.students.conv_kernels.convolved import Form
from candle_tf.students.conv_kernels.direct import convolve_directly
from candle_tf.students.conv_kernels.kn2row import convolve_by_kn2row
from candle_tf.students.conv_kernels.winograd import convolve_3x3
from candle_tf.timing import Side, alternate
from tools.benchmarks.growth import Growth, over_the_first

FORMS: Mapping[str, Form] = {
    "direct": partial(convolve_directly, stride=1),
    "winograd": convolve_3x3,
    "taps": partial(convolve_by_kn2row, stride=1),
}
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
# Single taps are for tiny maps; elsewhere they are far slower.
_TAPS_UP_TO = 4


def form_times(
    precision: str,
    images: int,
    shapes: Sequence[tuple[int, int]] = SHAPES,
    repeats: int = 5,
) -> dict[str, Growth]:
    """Times output and gradients of a 3x3 convolution of stride 1 in each form.

    Args:
        precision: "float32" or "bfloat16", of the operands.
        images: N.
        shapes: (side of a square map, channels in and out).
        repeats: rounds.

    Returns:
        By shape ("4x4 of 512") and form, time over that of the direct form; see
        `growth.over_the_first`, where a unit is one convolution.
    """
    figures = {}
    for side, channels in shapes:
        rng = np.random.default_rng(0)
        x = tf.cast(rng.choice([-1.0, 1.0], (images, side, side, channels)), precision)
        kernel = tf.cast(rng.choice([-0.5, 0.5], (3, 3, channels, channels)), precision)
        flow = tf.cast(rng.normal(size=x.shape), precision)
        names = [name for name in FORMS if name != "taps" or side <= _TAPS_UP_TO]
        sides = {name: _convolution(FORMS[name], x, kernel, flow) for name in names}
        seconds = alternate(sides, repeats, warmup=2)
        figures[f"{side}x{side} of {channels}"] = over_the_first(seconds, dict.fromkeys(sides, 1))
    return figures


def _convolution(form: Form, x: tf.Tensor, kernel: tf.Tensor, flow: tf.Tensor) -> Side:
    @tf.function(autograph=False)
    def traced(x: tf.Tensor, kernel: tf.Tensor, flow: tf.Tensor) -> tuple[tf.Tensor, ...]:
        y, gradients = form(x, kernel, 1.0)
        return (y, *gradients(flow, flow))

    def run() -> None:
        for value in traced(x, kernel, flow):
            value.numpy()

    return run

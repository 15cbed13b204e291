"""Computes with every native operator and prints a digest of all results, to the last bit.

TF_NUM_INTRAOP_THREADS=2 python -m tests.native.digest
"""

import hashlib

import numpy as np
import tensorflow as tf

from candle_tf.native.build import NATIVE, native_operators
from candle_tf.native.ops import (
    adam,
    binarize,
    binary_conv,
    conv,
    conv_gradients,
    mean_pool,
    sign_conv_gradients,
)
from tests.native.numpy_chain import draw_case
from tests.native.test_norm_chain import native_chain


def results() -> list[np.ndarray]:
    """Outputs and gradients of large and small maps, denormals among them."""
    found: list[np.ndarray] = []
    for shape, branches in (((16, 32, 32, 24), 1), ((4, 16, 16, 64), 2), ((3, 5, 7, 17), 1)):
        case = draw_case(shape, branches=branches)
        case.xs[0][0] *= np.float32(1e-39)
        case.dy[1] *= np.float32(1e-39)
        result, chain = native_chain(case, activation=True, sign=True, clip=None, relu=False)
        found += [result.y, result.signs, *result.gradients.values(), *map(np.asarray, chain)]
    rng = np.random.default_rng(1)
    weights = tf.constant(rng.normal(size=(3, 3, 128, 96)), tf.float32)
    values, scale = binarize(weights, tf.float32, floor=1e-6)
    x = tf.constant(rng.choice([-1.0, 1.0], (4, 14, 14, 128)), tf.float32)
    dy = tf.constant(rng.normal(size=(4, 14, 14, 96)), tf.float32)
    found += [values, scale, binary_conv(x, values, pad_value=1.0, stride=1, magnitude=0.5)]
    # Winograd's transforms without the products between them, which are TensorFlow's.
    operators = native_operators(NATIVE)
    windows = operators.candle_winograd_windows(x=dy)
    kernels = operators.candle_winograd_kernels(kernel=values, rotated=True)
    found += [*windows, *operators.candle_winograd_tiles(x=x), *kernels]
    found += [operators.candle_winograd_pixels(products=windows, height=14, width=14)]
    found += [operators.candle_winograd_kernel_grad(sums=kernels)]
    for dtype in (tf.float32, tf.bfloat16):
        maps = [tf.cast(each, dtype) for each in (x, values, dy)]
        found += [conv(*maps[:2], pad_value=1.0, stride=1)]
        found += conv_gradients(*maps, pad_value=1.0, stride=1)
        found += sign_conv_gradients(*maps, pad_value=1.0, stride=1)
    found += [mean_pool(x), operators.candle_mean_pool_grad(d_means=mean_pool(dy), x=dy)]
    variables = [tf.Variable(weights), tf.Variable(tf.zeros_like(weights) + 1e-39)]
    slots = [[tf.Variable(tf.zeros_like(v)) for v in variables] for _ in range(2)]
    adam(
        variables,
        *slots,
        [weights * 1e-30, weights],
        learning_rate=tf.constant(1e-3),
        step=tf.constant(3, tf.int64),
        beta_1=0.9,
        beta_2=0.999,
        epsilon=1e-7,
        decays=[1e-4, 0.0],
        clips=[1.0, 0.0],
    )
    found += [*variables, *slots[0], *slots[1]]
    return [tf.cast(each, tf.float32).numpy() for each in found]


if __name__ == "__main__":
    joined = (b"".join(each.tobytes() for each in results()) for _ in range(3))
    print(*sorted({hashlib.sha256(each).hexdigest() for each in joined}))

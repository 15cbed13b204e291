"""The convolution written in NumPy, and cases for its implementations."""

import itertools

import numpy as np
import tensorflow as tf

from candle_tf.students.conv_kernels.implementation import ConvImplementation
from candle_tf.students.conv_kernels.padding import pad_same


def numpy_convolution(
    x: np.ndarray, kernel: np.ndarray, stride: int, pad_value: float
) -> np.ndarray:
    """The "same" convolution as four loops, in float64."""
    window = kernel.shape[0]
    outputs = [-(-side // stride) for side in x.shape[1:3]]
    totals = [
        max((out - 1) * stride + window - side, 0)
        for out, side in zip(outputs, x.shape[1:3], strict=True)
    ]
    widths = [(0, 0), *[(total // 2, total - total // 2) for total in totals], (0, 0)]
    padded = np.pad(x.astype(np.float64), widths, constant_values=pad_value)
    y = np.zeros((len(x), *outputs, kernel.shape[3]))
    for i, j in itertools.product(*map(range, outputs)):
        for a, b in itertools.product(range(window), repeat=2):
            y[:, i, j] += padded[:, i * stride + a, j * stride + b] @ kernel[a, b]
    return y


def signs_case(
    height: int, width: int, window: int = 3, channels: int = 3, filters: int = 4
) -> tuple[np.ndarray, np.ndarray]:
    """Two images and a kernel of -1 and +1, float32."""
    rng = np.random.default_rng(height * 16 + width)
    x = rng.choice([-1.0, 1.0], (2, height, width, channels)).astype(np.float32)
    return x, rng.choice([-1.0, 1.0], (window, window, channels, filters)).astype(np.float32)


def assert_gradients_are_tensorflows(
    implementation: ConvImplementation, x: np.ndarray, kernel: np.ndarray, stride: int
) -> None:
    """Compares both gradients with those of `tf.nn.conv2d`, each for another gradient of y."""
    pixels, weights = tf.constant(x), tf.constant(kernel)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch([pixels, weights])
        plain = tf.nn.conv2d(pad_same(pixels, len(kernel), stride, 1.0), weights, stride, "VALID")
    rng = np.random.default_rng(1)
    for_x, for_kernel = (tf.constant(rng.normal(size=plain.shape), tf.float32) for _ in range(2))
    actual = implementation.conv(pixels, weights, 1.0, stride).gradients(for_x, for_kernel)
    expected = tape.gradient(plain, pixels, for_x), tape.gradient(plain, weights, for_kernel)
    for ours, theirs in zip(actual, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def rounding_of_gradients(
    implementation: ConvImplementation, x: np.ndarray, kernel: np.ndarray
) -> list[float]:
    """Largest error of each gradient in bfloat16 over the gradient's largest value."""
    found = {}
    for dtype in ("float32", "bfloat16"):
        y, gradients = implementation.conv(tf.cast(x, dtype), tf.cast(kernel, dtype), 1.0, 1)
        dy = tf.cast(np.random.default_rng(2).normal(size=y.shape), dtype)
        found[dtype] = [tf.cast(g, tf.float32).numpy() for g in gradients(dy, dy)]
    pairs = zip(found["float32"], found["bfloat16"], strict=True)
    return [float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs]

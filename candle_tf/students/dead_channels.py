"""Channels of binary convolutions that are the same for every input: their batch norm is silenced.

    silenced = silence_dead_channels(student)       # after training; the number of channels

In QuickNet a ReLU is between a binary convolution and its batch norm. A channel whose sums are
negative on all training images is 0 after it, has no gradient, and stays so; of QuickNet-Small's
last section a quarter were, after 75 epochs of Caltech101. Their moving variance falls to 0, so the
batch norm multiplies by 1 / sqrt(epsilon), some 300 times. Nothing that was trained needs that
factor. But an image that is not 0 there gets an output a hundred times larger than all others, and
the Larq Compute Engine adds the batch norm's shift and the factor times the number of summed signs
in float32: with a factor of 300 that rounds the shift to eighths.
"""

from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.students.layers.blocks import binary_layers

# Of sums of signs, which are whole numbers and differ by 2 at least: a channel with a smaller
# variance has one value in all but one of 4,000 places.
_VARIANCE = 1e-3


def silence_dead_channels(network: tf.keras.Model) -> int:
    """Sets the scale of a batch norm to 0 where what it normalizes is constant.

    The channel's output is the batch norm's shift then, as it was on the images of the last steps
    of the training.

    Args:
        network: trained; its binary convolutions have quantized kernels as they are shipped.

    Returns:
        How many channels were silenced; of those that were before none.
    """
    return sum(
        _silence(norm, _VARIANCE * _kernel_scale(layer) ** 2)
        for layer in binary_layers(network)
        for norm in _norms_after(layer)
    )


def _silence(norm: tf.keras.layers.BatchNormalization, variance: np.ndarray) -> int:
    if not norm.scale:
        return 0
    gamma = norm.gamma.numpy()
    dead = (norm.moving_variance.numpy() <= variance) & (gamma != 0)
    if dead.any():
        norm.gamma.assign(np.where(dead, np.float32(0), gamma))
    return int(dead.sum())


def _kernel_scale(layer: Any) -> np.ndarray:
    """By what the sums of signs are multiplied, float `[C]`."""
    kernel = layer.kernel_quantizer(tf.constant(layer.kernel.numpy())).numpy()
    return np.abs(kernel).max(axis=(0, 1, 2)).astype(np.float64)


def _norms_after(layer: Any) -> list[tf.keras.layers.BatchNormalization]:
    """The batch norms that read a convolution's output alone, directly or after a ReLU."""
    found = [node.layer for node in layer.outbound_nodes]
    if len(found) == 1 and isinstance(found[0], tf.keras.layers.ReLU):
        found = [node.layer for node in found[0].outbound_nodes]
    return [each for each in found if isinstance(each, tf.keras.layers.BatchNormalization)]

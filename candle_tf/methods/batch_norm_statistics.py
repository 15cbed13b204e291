"""Statistics of batch norms, estimated again from training views for the weights as they are.

    BatchNormStatistics(student).reestimate(batches)        # batches with "inputs"

Moving averages of a training are those of its last steps' weights and image size. Averaged weights,
or another size of image, need statistics of their own: here the mean and the variance of each batch
norm's inputs over all images ("precise batch norm": Wu & Johnson, "Rethinking 'Batch' in
BatchNorm", 2021). Layers before it normalize by the statistics of the batch, as in training.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods.annealing import AnnealedQuantizer, keep_exact_signs
from candle_tf.methods.before_validation import BeforeValidation
from candle_tf.students.compute_policy import PLAIN, ComputePolicyLayer, set_compute_policy

# Views that statistics are estimated from, or as many as an epoch has.
VIEWS = 2048


def trainable_batch_norms(network: tf.keras.Model) -> list[Any]:
    """The batch norms of a functional network that are not frozen.

    Raises:
        ValueError: where one is inside of another layer, so that its inputs are not at hand.
    """
    found = [m for m in network.submodules if isinstance(m, tf.keras.layers.BatchNormalization)]
    inside = [layer.name for layer in found if all(layer is not each for each in network.layers)]
    if inside:
        raise ValueError(f"the batch norm {inside[0]} is inside of another layer")
    return [layer for layer in found if layer.trainable]


class BatchNormStatistics:
    """Estimates the statistics of a network, as often as it is asked to.

    The network is computed plainly, in float32, as it is in evaluation. Frozen batch norms, and all
    weights, stay as they are.

    Args:
        network: a functional Keras model, from images.

    Raises:
        ValueError: as `trainable_batch_norms`.
    """

    def __init__(self, network: tf.keras.Model) -> None:
        self._network = network
        self._layers = trainable_batch_norms(network)
        # The first node of a layer is that of its own network.
        inputs = [layer.get_input_at(0) for layer in self._layers]
        self._before = tf.keras.Model(network.inputs, inputs) if inputs else None
        self._moments = tf.function(self._compute_moments, autograph=False)

    def reestimate(self, batches: Iterable[Mapping[str, tf.Tensor]]) -> None:
        """Sets the moving means and variances to those of the layers' inputs on some images.

        Args:
            batches: of one size, with "inputs" float `[B, S, S, 3]`; at least one.
        """
        if self._before is None:
            return
        with _compute_plainly(self._network):
            found = [self._moments(batch["inputs"]) for batch in batches]
        for number, layer in enumerate(self._layers):
            means, variances = (
                np.array([of_batch[number][part].numpy() for of_batch in found], np.float64)
                for part in (0, 1)
            )
            layer.moving_mean.assign(means.mean(axis=0))
            # The variance within batches, and that of their means.
            layer.moving_variance.assign(variances.mean(axis=0) + means.var(axis=0))

    def _compute_moments(self, images: tf.Tensor) -> list[tuple[tf.Tensor, tf.Tensor]]:
        assert self._before is not None
        # This moves the moving averages as well, which are then replaced.
        values = tf.nest.flatten(self._before(images, training=True))
        return [tf.nn.moments(x, list(range(len(x.shape) - 1))) for x in values]


@contextmanager
def _compute_plainly(network: tf.keras.Model) -> Iterator[None]:
    """Without native operators; at the end as before."""
    layers = [layer for layer in network.submodules if isinstance(layer, ComputePolicyLayer)]
    before = [layer.compute_policy for layer in layers]
    set_compute_policy(network, PLAIN)
    try:
        yield
    finally:
        for layer, policy in zip(layers, before, strict=True):
            layer.compute_policy = policy


class ReestimateBatchNorm(BeforeValidation):
    """Estimates the statistics of a network after the steps of some epochs.

    In training they are not used, so it goes the same way. Annealed kernels are exact signs for
    that, as they are in validation.

    Args:
        network: a functional Keras model.
        batches: of an epoch, from 0: views that the network is trained on in it.
        epochs: after which statistics are estimated, from 0.
        quantizers: annealed ones of the network.
    """

    def __init__(
        self,
        network: tf.keras.Model,
        batches: Callable[[int], Iterable[Mapping[str, tf.Tensor]]],
        epochs: Collection[int],
        quantizers: Sequence[AnnealedQuantizer] = (),
    ) -> None:
        super().__init__()
        self._statistics = BatchNormStatistics(network)
        self._batches = batches
        self._epochs = frozenset(epochs)
        self._quantizers = quantizers

    def run(self, epoch: int) -> None:
        if epoch in self._epochs:
            with keep_exact_signs(self._quantizers):
                self._statistics.reestimate(self._batches(epoch))

"""Statistics of batch norms, estimated again from training views for the weights as they are.

    BatchNormStatistics(student).reestimate(batches)        # batches with "inputs"

Moving averages of a training are those of its last steps' weights and image size. Averaged weights,
another size of image, or signs in place of the ramps of annealed kernels need statistics of their
own: here the mean and the variance of each batch norm's inputs over all images ("precise batch
norm": Wu & Johnson, "Rethinking 'Batch' in BatchNorm", 2021). Layers before it normalize by the
statistics of the batch, as in training.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.methods.annealing import AnnealedQuantizer, keep_exact_signs
from candle_tf.methods.before_validation import BeforeValidation
from candle_tf.students.fused_forward import FusedForward, batch_moments, is_native

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

    The network is computed in float32, whatever the operands in training are, by the native
    operators where its layers say so; one of several replicas by all of them. Frozen batch norms,
    and all weights, stay as they are.

    Args:
        network: a functional Keras model, from images.

    Raises:
        ValueError: as `trainable_batch_norms`.
    """

    def __init__(self, network: tf.keras.Model) -> None:
        self._network = network
        self._layers = trainable_batch_norms(network)
        self._moments = tf.function(self._moments_of_shares, autograph=False)

    def reestimate(self, batches: Iterable[Mapping[str, Any]]) -> None:
        """Sets the moving means and variances to those of the layers' inputs on some images.

        Args:
            batches: of one size, with "inputs" float `[B, S, S, 3]`; at least one. Of a network of
                several replicas their shares of each, which are equal.
        """
        if not self._layers:
            return
        found = [self._moments(batch["inputs"]).numpy() for batch in batches]
        means, variances = np.split(np.concatenate(found).astype(np.float64), 2, axis=1)
        mean = means.mean(axis=0)
        # The variance within batches, and that of their means.
        variance = variances.mean(axis=0) + means.var(axis=0)
        start = 0
        for layer in self._layers:
            end = start + layer.moving_mean.shape[0]
            layer.moving_mean.assign(mean[start:end])
            layer.moving_variance.assign(variance[start:end])
            start = end

    def _moments_of_shares(self, images: Any) -> tf.Tensor:
        """A row for each replica: the means of all layers' channels, then the variances."""
        strategy = self._network.distribute_strategy
        return strategy.gather(strategy.run(self._compute_moments, args=(images,)), axis=0)

    def _compute_moments(self, images: tf.Tensor) -> tf.Tensor:
        # This may move the moving averages as well, which are then replaced.
        if is_native(self._network):
            forward = FusedForward(self._network, dtype=tf.float32)
            moments = forward.batch_moments(images, self._layers)
        else:
            # The first node of a layer is that of its own network.
            inputs = [layer.get_input_at(0) for layer in self._layers]
            values = tf.keras.Model(self._network.inputs, inputs)(images, training=True)
            moments = [batch_moments(x) for x in tf.nest.flatten(values)]
        means, variances = zip(*moments, strict=True)
        return tf.concat([*means, *variances], axis=0)[tf.newaxis]


class ReestimateBatchNorm(BeforeValidation):
    """Estimates the statistics of a network after the steps of some epochs.

    In training they are not used, so it goes the same way; the moving averages of the next epoch
    begin with them, and forget them by its steps. Annealed kernels are exact signs for that, as
    they are in validation.

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

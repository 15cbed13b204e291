"""Calibration (CANDLE's first stage): a new linear classifier on the frozen teacher's features.

    min over g_T of  E over resolutions and pictures of  L(g_T(features), label)

The backbone never moves, so its features are computed once (`teachers.features`) and the classifier
learns from the stored ones.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.pipeline import epoch_order, steps_per_epoch
from candle_tf.methods import losses
from candle_tf.methods.trainer import Batch, Player, Trainer

CalibrationLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@tf.keras.utils.register_keras_serializable("candle_tf")
class ScaledLogits(tf.keras.layers.Layer):
    """Learnable weight scaling: one positive factor per class, exp(s_c), s_c = 0 at the start.

    Float [B, C] to [B, C]. Source: MiSLAS (Zhong et al., CVPR 2021), eq. 7.
    """

    def build(self, input_shape: tf.TensorShape) -> None:
        self.log_scale = self.add_weight(
            name="log_scale", shape=input_shape[-1:], initializer="zeros"
        )
        super().build(input_shape)

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        return inputs * tf.exp(self.log_scale)


def teacher_classifier(
    feature_size: int, classes: int, weight_scaling: bool = False, seed: int = 0
) -> tf.keras.Model:
    """g_T: features float [B, d_T] to a dictionary with "logits" [B, C].

    Args:
        feature_size: d_T.
        classes: C.
        weight_scaling: add a learnable scale per class.
        seed: of the initial weights.
    """
    features = tf.keras.Input([feature_size], name="teacher_features")
    dense = tf.keras.layers.Dense(
        classes, kernel_initializer=tf.keras.initializers.GlorotUniform(seed), name="classifier"
    )
    logits = dense(features)
    if weight_scaling:
        logits = ScaledLogits(name="weight_scaling")(logits)
    return tf.keras.Model(features, {"logits": logits}, name="teacher_classifier")


def calibration_loss(
    name: str, counts: np.ndarray, *, tau: float, smoothing: tuple[float, float]
) -> CalibrationLoss:
    """The loss of one name as a function of (logits [B, C], labels [B]) giving [B].

    Args:
        name: "cross_entropy", "balanced_softmax", "logit_adjustment" or "label_aware_smoothing".
        counts: training pictures of each class, int [C].
        tau: of the logit adjustment.
        smoothing: (head, tail) of the label-aware smoothing.

    Raises:
        KeyError: for another name; `Config` has refused it before.
    """
    rates = losses.smoothing_rates(counts, *smoothing)
    table: dict[str, CalibrationLoss] = {
        "cross_entropy": losses.cross_entropy,
        "balanced_softmax": lambda z, y: losses.balanced_softmax(z, y, counts),
        "logit_adjustment": lambda z, y: losses.logit_adjustment(z, y, counts, tau),
        "label_aware_smoothing": lambda z, y: losses.label_aware_smoothing(z, y, rates),
    }
    return table[name]


class CalibrationTrainer(Trainer):
    """Trains the classifier; batches hold "inputs" (features, float [B, d_T]) and "labels" [B]."""

    def __init__(
        self, classifier: tf.keras.Model, classes: int, loss: CalibrationLoss, optimizer: Any
    ) -> None:
        super().__init__(classifier, classes, name="calibration_trainer")
        self._loss = loss
        self._optimizer = optimizer

    def terms(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        logits = self.network(batch["inputs"], training=training)["logits"]
        return {"objective": tf.reduce_mean(self._loss(logits, batch["labels"]))}

    def players(self) -> list[Player]:
        return [Player(self._optimizer, self.network.trainable_variables)]


def feature_batches(
    features: Sequence[np.ndarray],
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    first_epoch: int,
    epochs: int,
) -> tf.data.Dataset:
    """Batches of stored features; an epoch takes every picture at every view and resolution once.

    Args:
        features: one array float16 [V, N, d_T] per resolution.
        labels: int32 [N].
        batch_size: features in a batch.
        seed: of the order.
        first_epoch: where to begin.
        epochs: where to stop.

    Returns:
        Dataset of dictionaries: "inputs" float32 [B, d_T], "labels" int32 [B].
    """
    views, count, feature_size = features[0].shape
    total = len(features) * views * count
    size = min(batch_size, total)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for epoch in range(first_epoch, epochs):
            order = epoch_order(seed, epoch, total)
            for step in range(steps_per_epoch(total, batch_size)):
                resolution, view, row = np.unravel_index(
                    order[step * size : (step + 1) * size], (len(features), views, count)
                )
                inputs = np.empty((size, feature_size), np.float32)
                for number, stored in enumerate(features):
                    chosen = resolution == number
                    inputs[chosen] = stored[view[chosen], row[chosen]]
                yield {"inputs": inputs, "labels": labels[row]}

    signature = {
        "inputs": tf.TensorSpec([size, feature_size], tf.float32),
        "labels": tf.TensorSpec([size], tf.int32),
    }
    return tf.data.Dataset.from_generator(batches, output_signature=signature).prefetch(8)

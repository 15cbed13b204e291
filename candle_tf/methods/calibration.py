"""Calibration (CANDLE's first stage): a new linear classifier on the frozen teacher's features.

    min over g_T of  E over resolutions and images of  L(g_T(features), label)

The backbone never moves, so its features are computed once (`teachers.features`) and the classifier
learns from the stored ones; or from those of new views in every epoch (`OnlineFeatures`).
"""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.views import Views
from candle_tf.data.batches import dataset_from_generator
from candle_tf.data.epoch_steps import steps_per_epoch
from candle_tf.data.pipeline import REPEATED
from candle_tf.data.samplers import epoch_index, occurrences
from candle_tf.distribute import ALONE, BatchShare
from candle_tf.methods import losses
from candle_tf.methods.checked_losses import checked_losses
from candle_tf.methods.parameter_groups import ParameterGroup
from candle_tf.methods.registry import CALIBRATION_LOSSES
from candle_tf.methods.settings import CalibrationSettings
from candle_tf.methods.trainer import TOTAL_LOSS, Batch, Trainer
from candle_tf.registry import refuse_signature
from candle_tf.teachers.feature_parts import StoredFeatures
from candle_tf.teachers.features import OnlineFeatures

CalibrationLoss = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


@tf.keras.utils.register_keras_serializable("candle_tf")
class ScaledLogits(tf.keras.layers.Layer):
    """Learnable weight scaling: one positive factor per class, exp(s_c), s_c = 0 at the start.

    Float `[B, C]` to `[B, C]`. Source: MiSLAS (Zhong et al., CVPR 2021), eq. 7.
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
    """g_T: features float `[B, d_T]` to a dictionary with "logits" `[B, C]`.

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


def build_calibration_loss(
    settings: CalibrationSettings, counts: np.ndarray, shown: np.ndarray, name: str = ""
) -> CalibrationLoss:
    """The loss that --calibration_loss names, of (logits `[B, C]`, labels `[B]`), giving `[B]`.

    Args:
        settings: of the calibration.
        counts: training images of each class, int `[C]`.
        shown: how often an epoch shows each class, up to a factor, `[C]`, above 0: `counts` where
            all images have as many views.
        name: another of `registry.CALIBRATION_LOSSES`, as that of a second stage.

    Raises:
        UserError: while it is traced, for a loss that is not float32 `[B]`.
    """
    name = name or settings.calibration_loss
    what = f"calibration loss {CALIBRATION_LOSSES.title(name)}"
    return checked_losses(CALIBRATION_LOSSES[name](settings, counts, shown), what)


def refuse_calibration_arguments(settings: CalibrationSettings, name: str = "") -> None:
    """Refuses a function that takes other arguments than `build_calibration_loss` calls it with.

    Args:
        settings, name: as of `build_calibration_loss`.

    Raises:
        UserError: with both.
    """
    name = name or settings.calibration_loss
    what = f"calibration loss {CALIBRATION_LOSSES.title(name)}"
    refuse_signature(what, CALIBRATION_LOSSES[name], "settings", "counts", "shown")


def build_cross_entropy(
    settings: CalibrationSettings, counts: np.ndarray, shown: np.ndarray
) -> CalibrationLoss:
    """Plain cross-entropy."""
    del settings, counts, shown
    return losses.cross_entropy


def build_balanced_softmax(
    settings: CalibrationSettings, counts: np.ndarray, shown: np.ndarray
) -> CalibrationLoss:
    """Balanced softmax, of how often each class is shown."""
    del settings, counts
    return lambda z, y: losses.balanced_softmax(z, y, shown)


def build_logit_adjustment(
    settings: CalibrationSettings, counts: np.ndarray, shown: np.ndarray
) -> CalibrationLoss:
    """Logit adjustment by how often each class is shown, with --logit_adjustment_tau."""
    del counts
    return lambda z, y: losses.logit_adjustment(z, y, shown, settings.logit_adjustment_tau)


def build_label_aware_smoothing(
    settings: CalibrationSettings, counts: np.ndarray, shown: np.ndarray
) -> CalibrationLoss:
    """Label-aware smoothing from --smoothing_tail to --smoothing_head, by the classes' images.

    MiSLAS has its rates by images also where it samples all classes alike.
    """
    del shown
    rates = losses.smoothing_rates(counts, settings.smoothing_head, settings.smoothing_tail)
    return lambda z, y: losses.label_aware_smoothing(z, y, rates)


class CalibrationTrainer(Trainer):
    """Trains the classifier on "inputs" (features, float `[B, d_T]`) and "labels" `[B]`.

    Args:
        classifier: from features to a dictionary with "logits" `[B, C]`.
        classes: C.
        loss: see `calibration_loss`.
        parameter_groups: of the classifier's trainable variables.
    """

    def __init__(
        self,
        classifier: tf.keras.Model,
        classes: int,
        loss: CalibrationLoss,
        parameter_groups: Sequence[ParameterGroup],
    ) -> None:
        super().__init__(classifier, classes, parameter_groups, name="calibration_trainer")
        self._loss = loss

    def compute_losses(self, batch: Batch, training: bool) -> dict[str, tf.Tensor]:
        """The total loss alone, the mean over the batch."""
        logits = self.network(batch["inputs"], training=training)["logits"]
        return {TOTAL_LOSS: tf.reduce_mean(self._loss(logits, batch["labels"]))}


def feature_batches(
    features: Sequence[StoredFeatures],
    rows: np.ndarray,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    first_epoch: int,
    epochs: int,
    sampler: str = "instance",
    share: BatchShare = ALONE,
) -> tf.data.Dataset:
    """Batches of stored features; an epoch has as many as some rows at every resolution.

    Args:
        features: one array float16 `[R, d_T]` per resolution, memory-mapped or not; or all side by
            side as the only one.
        rows: those that are taken, int64 `[U]`.
        labels: of each of them, int32 `[U]`.
        batch_size: features in a batch.
        seed: of the order.
        first_epoch: where to begin.
        epochs: where to stop.
        sampler: as of `samplers.epoch_index`; "instance" takes each row at each resolution once.
        share: the replicas whose shares of each batch are given, one after the other.

    Returns:
        Dataset of dictionaries: "inputs" float32 `[B, d_T]`, "labels" int32 `[B]`.
    """
    feature_size = features[0].shape[1]
    total = len(features) * len(rows)
    size = min(batch_size, total)
    shares = share.slices(size)
    labels_of_all = np.tile(labels, len(features))

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for epoch in range(first_epoch, epochs):
            order = epoch_index(sampler, labels_of_all, seed=seed, epoch=epoch, epochs=epochs)
            for step in range(steps_per_epoch(total, batch_size)):
                batch = order[step * size : (step + 1) * size]
                for places in shares:
                    resolution, place = np.divmod(batch[places], len(rows))
                    inputs = np.empty((len(place), feature_size), np.float16)
                    for number, stored in enumerate(features):
                        chosen = resolution == number
                        inputs[chosen] = stored[rows[place[chosen]]]
                    yield {"inputs": inputs, "labels": labels[place]}

    return _dataset(batches, size // share.count, feature_size, tf.float16)


def online_feature_batches(
    features: OnlineFeatures,
    labels: np.ndarray,
    *,
    batch_size: int,
    seed: int,
    first_epoch: int,
    epochs: int,
    sampler: str = "instance",
    share: BatchShare = ALONE,
) -> tf.data.Dataset:
    """Batches of features of new views; an epoch has as many as images, at every resolution.

    Or as many as images, at all resolutions side by side.

    The backbone runs on each batch of images at all resolutions. Their features are then dealt
    out, so that every batch has all resolutions, as those of `feature_batches` do.

    Args:
        features: of the training images.
        labels: of each image, int32 `[N]`.
        batch_size, seed, first_epoch, epochs, sampler, share: as in `feature_batches`; an image
            that is sampled again has another view.

    Returns:
        As `feature_batches`; `steps_per_epoch(N, batch_size)` batches of each resolution (or of all
        together) an epoch.
    """
    count, resolutions = len(labels), features.rows_per_view
    size = min(batch_size, count)
    shares = share.slices(size)

    def batches() -> Iterator[dict[str, np.ndarray]]:
        for epoch in range(first_epoch, epochs):
            order = epoch_index(sampler, labels, seed=seed, epoch=epoch, epochs=epochs)
            repeats = occurrences(order)
            for step in range(steps_per_epoch(count, batch_size)):
                taken = slice(step * size, (step + 1) * size)
                index = order[taken]
                numbers = features.augmentation.numbers_at(index, epoch)
                views = Views(index, numbers + REPEATED * repeats[taken])
                deal = np.random.default_rng([seed, epoch, step]).permutation(resolutions * size)
                parts = [part[places] for part in np.split(deal, resolutions) for places in shares]
                inputs = features.at(views, np.concatenate(parts))
                for number, part in enumerate(parts):
                    begin = number * len(part)
                    yield {
                        "inputs": inputs[begin : begin + len(part)],
                        "labels": labels[index[part % size]],
                    }

    return _dataset(batches, size // share.count, features.feature_size, tf.float32)


def _dataset(
    batches: Callable[[], Iterator[dict[str, np.ndarray]]],
    size: int,
    feature_size: int,
    dtype: tf.DType,
) -> tf.data.Dataset:
    signature = {
        "inputs": tf.TensorSpec([size, feature_size], dtype),
        "labels": tf.TensorSpec([size], tf.int32),
    }
    return dataset_from_generator(batches, signature).map(_as_float32).prefetch(8)


def _as_float32(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
    return {**batch, "inputs": tf.cast(batch["inputs"], tf.float32)}

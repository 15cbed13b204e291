"""Correction of a run's student for the classes that it prefers (`methods.prior_correction`)."""

from collections.abc import Callable, Iterator
from itertools import chain

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.config import Config
from candle_tf.data.pipeline import evaluation_batches
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.methods.method import Classifier
from candle_tf.methods.prior_correction import (
    HeldOutLogs,
    LazyLogits,
    choose_strength,
    correct_prior,
    corrected_blocks,
    held_out_logs,
    mean_prediction,
    split_by_class,
)
from candle_tf.methods.settings import AUTO
from candle_tf.stages.prepare import Data


def corrects_prior(config: Config) -> bool:
    """Whether the student's classifier is corrected for the classes that it prefers."""
    return config.training.method == "candle" and config.balance.prior_correction != "0"


def refuse_missing_bias(config: Config, student: tf.keras.Model) -> None:
    """Refuses a student whose classifier has no bias, which the correction would change.

    Raises:
        UserError: for such a student.
    """
    if corrects_prior(config) and student.get_layer("logits").bias is None:
        raise UserError(
            f"--student={config.student.student} has a layer 'logits' without bias, which "
            f"--prior_correction={config.balance.prior_correction} would change. Give the layer a "
            "bias, or --prior_correction=0."
        )


def correct_student(config: Config, data: Data, student: tf.keras.Model) -> float:
    """Changes the bias of a student that is as it was trained.

    Args:
        config: the run's settings.
        data: the prepared split.
        student: its layer "logits" is changed.

    Returns:
        The strength of the correction, in [0, 1].
    """
    layer = student.get_layer("logits")
    trained = Classifier(layer.kernel.numpy(), layer.bias.numpy())
    features = features_of(config, data.validation, student)
    training = _training_images(data, fewest=1)
    more = features_of(config, training, student)
    by_class = chain(
        _logits_by_class(trained, features, data.validation.labels),
        _logits_by_class(trained, more, training.labels),
    )
    prediction = mean_prediction(by_class)
    strength = _strength(config, lambda: _validation(config, data, student, trained))
    logging.info("correction of the student's preferred classes with strength %.2f", strength)
    layer.bias.assign(correct_prior(trained, prediction, strength).bias)
    return strength


def correct_validation_logits(
    config: Config, data: Data, student: tf.keras.Model, bias_change: np.ndarray
) -> Iterator[np.ndarray]:
    """Logits of the validation images, none corrected by what is predicted of that image itself.

    Those of thousands of classes need not fit into memory.

    Args:
        config: the run's settings.
        data: the prepared split, with validation images.
        student: corrected.
        bias_change: of its classifier by the correction, float `[C]`.

    Returns:
        float32 `[B, C]` of some images after the others.
    """
    layer = student.get_layer("logits")
    trained = Classifier(layer.kernel.numpy(), layer.bias.numpy() - bias_change)
    logits, logs = _validation(config, data, student, trained)
    return corrected_blocks(logits, logs, _strength(config, lambda: (logits, logs)))


def features_of(config: Config, subset: Subset, student: tf.keras.Model) -> np.ndarray:
    """The student's features of whole images, float32 `[N, d_S]`."""
    batches = evaluation_batches(subset, image_size=config.student.image_size)
    features = [student(batch["inputs"], training=False)["features"].numpy() for batch in batches]
    empty = np.zeros([0, student.output["features"].shape[-1]], np.float32)
    return np.concatenate([empty, *features])


def _strength(config: Config, outputs: Callable[[], tuple[LazyLogits, HeldOutLogs]]) -> float:
    """t; `outputs` are those of `_validation`, computed where t is chosen by them."""
    if config.balance.prior_correction != AUTO:
        return float(config.balance.prior_correction)
    return choose_strength(*outputs())


def _validation(
    config: Config, data: Data, student: tf.keras.Model, trained: Classifier
) -> tuple[LazyLogits, HeldOutLogs]:
    """Logits of the validation images as trained, and log p of each by the others."""
    logits, more = (
        _lazy_logits(trained, features_of(config, subset, student), subset.labels)
        for subset in (data.validation, _training_images(data, fewest=2))
    )
    return logits, held_out_logs(logits, more)


def _lazy_logits(classifier: Classifier, features: np.ndarray, labels: np.ndarray) -> LazyLogits:
    def compute(rows: slice) -> np.ndarray:
        return np.asarray(features[rows] @ classifier.kernel + classifier.bias)

    return LazyLogits(labels, classifier.kernel.shape[1], compute)


def _training_images(data: Data, fewest: int) -> Subset:
    """Those of the classes that have fewer validation images."""
    rare = data.validation_counts[data.train.labels] < fewest
    return Subset(data.train.images, data.train.rows[rare], data.train.labels[rare])


def _logits_by_class(
    classifier: Classifier, features: np.ndarray, labels: np.ndarray
) -> Iterator[np.ndarray]:
    """Of one class after another: all logits of a large data set may not fit into memory."""
    each = split_by_class(features, labels)
    return (some @ classifier.kernel + classifier.bias for some in each)

"""Correction of a trained student's outputs for the classes that it prefers.

    z'_c = z_c - t log p_c,    p_c = mean over classes k of E[softmax(z)_c | images of class k]

p is what the student would predict on average if all classes were as frequent; it is uniform for
one that prefers none. Logit adjustment (Menon et al. 2021) takes the training counts for p. A
student of a calibrated teacher prefers frequent classes less than that, so p is measured on its own
outputs. They are those of validation images: the student knows its training images, and a rare
class is predicted there more often than on images that it has not seen. Classes without any other
image have training images in their place: a class that is left out of the mean over k would have a
p that is too small, and be preferred. The correction is a change of the classifier's bias: nothing
is added on the device.
"""

from collections.abc import Iterable, Iterator
from itertools import chain

import numpy as np
from scipy.special import softmax

from candle_tf.methods.class_accuracy import mean_class_accuracy
from candle_tf.methods.method import Classifier

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Of p; a class that is never predicted does not get all predictions.
_SMALLEST = 1e-6
_PARTS = 5


def split_by_class(logits: np.ndarray, labels: np.ndarray) -> Iterator[np.ndarray]:
    """The logits of the images of one class after another, float `[N_k, C]`.

    Args:
        logits: float `[N, C]`.
        labels: int `[N]`.
    """
    return (logits[labels == label] for label in np.unique(labels))


def split_with_more(
    logits: np.ndarray, labels: np.ndarray, more: np.ndarray, more_labels: np.ndarray
) -> Iterator[np.ndarray]:
    """The same; classes without an image there have those of `more`, float `[M, C]`."""
    missing = ~np.isin(more_labels, labels)
    return chain(
        split_by_class(logits, labels), split_by_class(more[missing], more_labels[missing])
    )


def mean_prediction(logits_by_class: Iterable[np.ndarray]) -> np.ndarray:
    """p of the classes, float64 `[C]`; sums to 1.

    Args:
        logits_by_class: of the images of each class, float `[N_k, C]`; at least one class, and at
            least one image of each. Of large data sets not all need to be in memory at a time.
    """
    total, classes = np.zeros(1), 0
    for logits in logits_by_class:
        total = total + softmax(np.asarray(logits, np.float64), axis=1).mean(axis=0)
        classes += 1
    return total / classes


def log_prediction(prediction: np.ndarray) -> np.ndarray:
    """log p, finite also where a class is never predicted."""
    return np.log(np.maximum(prediction, _SMALLEST))


def correct_prior(classifier: Classifier, prediction: np.ndarray, strength: float) -> Classifier:
    """The classifier whose logits are z - t log p.

    Args:
        classifier: as trained.
        prediction: p, float `[C]`.
        strength: t, 0 for no change.
    """
    shift = strength * log_prediction(prediction)
    return Classifier(classifier.kernel, classifier.bias - shift)


def held_out_log_predictions(
    logits: np.ndarray, labels: np.ndarray, more: np.ndarray, more_labels: np.ndarray
) -> np.ndarray:
    """log p of each image by the others, float32 `[N, C]`.

    Those of each fifth of the images, the images of a class in turn, are of the other four fifths:
    p of the same images would make every correction seem better than it is. A class without an
    image in the others has those of `more`.

    Args:
        logits: as trained, float `[N, C]`.
        labels: int `[N]`.
        more: of other images, such as those for training, of all classes with fewer than two
            images in `labels`, float `[M, C]`.
        more_labels: int `[M]`.
    """
    parts, logs = _parts(labels), np.empty(np.shape(logits), np.float32)
    for part in np.unique(parts):
        rest = parts != part
        by_class = split_with_more(logits[rest], labels[rest], more, more_labels)
        logs[~rest] = log_prediction(mean_prediction(by_class))
    return logs


def choose_strength(logits: np.ndarray, labels: np.ndarray, logs: np.ndarray) -> float:
    """The t of `STRENGTHS` with the highest mean class accuracy, the smaller of equals.

    Args:
        logits: of validation images as trained, float `[N, C]`.
        labels: int `[N]`; without any, t is 0.
        logs: of `held_out_log_predictions`.
    """
    if not len(labels):
        return 0.0
    return max(STRENGTHS, key=lambda t: (mean_class_accuracy(labels, logits - t * logs), -t))


def _parts(labels: np.ndarray) -> np.ndarray:
    """One of `_PARTS` for each image, the images of a class in turn: int `[N]`."""
    parts = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        parts[members] = np.arange(len(members)) % _PARTS
    return parts

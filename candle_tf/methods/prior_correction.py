"""Correction of a trained student's outputs for the classes that it prefers.

    z'_c = z_c - t log p_c,    p_c = mean over classes k of E[softmax(z)_c | images of class k]

p is what the student would predict on average if all classes were as frequent; it is uniform for
one that prefers none. Logit adjustment (Menon et al. 2021) takes the training counts for p. A
student of a calibrated teacher prefers frequent classes less than that, so p is measured on its own
outputs. They are those of validation images: the student knows its training images, and a rare
class is predicted there more often than on images that it has not seen. The correction is a change
of the classifier's bias: nothing is added on the device.
"""

import numpy as np
from scipy.special import softmax

from candle_tf.methods.class_accuracy import mean_class_accuracy
from candle_tf.methods.method import Classifier

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Of p; a class that is never predicted does not get all predictions.
_SMALLEST = 1e-6
_PARTS = 5


def mean_prediction(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p of the classes, float64 `[C]`; sums to 1.

    Args:
        logits: of images that the student was not trained on where there are any, float `[N, C]`.
        labels: int `[N]`, at least one; a class without images is left out of the mean.
    """
    predictions = softmax(np.asarray(logits, np.float64), axis=1)
    return np.mean([predictions[labels == label].mean(axis=0) for label in np.unique(labels)], 0)


def correct_prior(classifier: Classifier, prediction: np.ndarray, strength: float) -> Classifier:
    """The classifier whose logits are z - t log p.

    Args:
        classifier: as trained.
        prediction: p, float `[C]`.
        strength: t, 0 for no change.
    """
    shift = strength * np.log(np.maximum(prediction, _SMALLEST))
    return Classifier(classifier.kernel, classifier.bias - shift)


def correct_held_out(logits: np.ndarray, labels: np.ndarray, strength: float) -> np.ndarray:
    """Corrected logits of images that p is measured on, float64 `[N, C]`.

    Each fifth of the images is corrected by the p of the others: that of the same images would make
    every correction seem better than it is.

    Args:
        logits: as trained, float `[N, C]`.
        labels: int `[N]`; without two images of any class nothing is corrected.
        strength: t.
    """
    corrected, parts = np.array(logits, np.float64), _parts(labels)
    for part in np.unique(parts) if parts.any() else ():
        rest = parts != part
        prediction = mean_prediction(logits[rest], labels[rest])
        corrected[~rest] -= strength * np.log(np.maximum(prediction, _SMALLEST))
    return corrected


def choose_strength(logits: np.ndarray, labels: np.ndarray) -> float:
    """The t of `STRENGTHS` with the highest mean class accuracy, the smaller of equals.

    Args:
        logits: of validation images as trained, float `[N, C]`.
        labels: int `[N]`; without two images of any class, t is 0.
    """
    if not len(labels):
        return 0.0

    def accuracy(strength: float) -> float:
        return mean_class_accuracy(labels, correct_held_out(logits, labels, strength))

    return max(STRENGTHS, key=lambda t: (accuracy(t), -t))


def _parts(labels: np.ndarray) -> np.ndarray:
    """One of `_PARTS` for each image, the images of a class in turn: int `[N]`."""
    parts = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        parts[members] = np.arange(len(members)) % _PARTS
    return parts

"""Correction of a trained student's outputs for the classes that it prefers.

    z'_c = z_c - t log p_c,    p_c = mean over classes k of E[softmax(z)_c | images of class k]

p is what the student would predict on average if all classes were as frequent; it is uniform for
one that prefers none. Logit adjustment (Menon et al. 2021) takes the training counts for p. A
student of a calibrated teacher prefers frequent classes less than that, so p is measured on its own
outputs. The correction is a change of the classifier's bias: nothing is added on the device.
"""

import numpy as np
from scipy.special import softmax

from candle_tf.methods.class_accuracy import mean_class_accuracy
from candle_tf.methods.method import Classifier

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Of p; a class that is never predicted does not get all predictions.
_SMALLEST = 1e-6


def mean_prediction(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """p of the classes, float64 `[C]`; sums to 1.

    Args:
        logits: of training images, float `[N, C]`.
        labels: int `[N]`, at least one.
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


def choose_strength(logits: np.ndarray, labels: np.ndarray, prediction: np.ndarray) -> float:
    """The t of `STRENGTHS` with the highest mean class accuracy, the smaller of equals.

    Args:
        logits: of validation images as trained, float `[N, C]`.
        labels: int `[N]`; without any, t is 0.
        prediction: p, float `[C]`.
    """
    if not len(labels):
        return 0.0
    logs = np.log(np.maximum(prediction, _SMALLEST))
    return max(STRENGTHS, key=lambda t: (mean_class_accuracy(labels, logits - t * logs), -t))

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

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

import numpy as np
from scipy.special import softmax

from candle_tf.methods.class_accuracy import mean_class_accuracy
from candle_tf.methods.method import Classifier

STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
# Of p; a class that is never predicted does not get all predictions.
_SMALLEST = 1e-6
_PARTS = 5
# A block of logits has a multiple of so many rows, and about so many values.
_ROWS, _VALUES = 1024, 2**22
_ROWS_IN_FLOAT64 = 128


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


@dataclass(frozen=True)
class LazyLogits:
    """Logits of images as trained, computed some rows at a time.

    Those of thousands of classes are gigabytes, and no more is asked of them than means and maxima.

    Attributes:
        labels: int `[N]`, of the images.
        classes: C.
        compute: from a range of images to their logits, float `[B, C]`.
    """

    labels: np.ndarray
    classes: int
    compute: Callable[[slice], np.ndarray]

    @classmethod
    def of_array(cls, logits: np.ndarray, labels: np.ndarray) -> "LazyLogits":
        """Logits float `[N, C]` that are in memory."""
        return cls(labels, logits.shape[1], lambda rows: logits[rows])

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """All images in their order, as ranges with their logits."""
        # Of some thousand rows a product has the bits that it has of all rows.
        size = _ROWS * max(1, _VALUES // (_ROWS * self.classes))
        for start in range(0, len(self.labels), size):
            rows = slice(start, min(start + size, len(self.labels)))
            yield rows, self.compute(rows)


@dataclass(frozen=True)
class HeldOutLogs:
    """log p of each image by the others.

    Attributes:
        parts: int `[N]`, of each image the row of `logs` that is of the others.
        logs: float32 `[P, C]`.
    """

    parts: np.ndarray
    logs: np.ndarray

    def of(self, rows: slice, strength: float = 1.0) -> np.ndarray:
        """Those of a range of images times a constant, float32 `[B, C]`."""
        return (np.float32(strength) * self.logs)[self.parts[rows]]


def held_out_logs(logits: LazyLogits, more: LazyLogits) -> HeldOutLogs:
    """log p of each image by the others.

    Those of each fifth of the images, the images of a class in turn, are of the other four fifths:
    p of the same images would make every correction seem better than it is. A class without an
    image in the others has those of `more`.

    Args:
        logits: of the images.
        more: of other images, such as those for training, of all classes with fewer than two
            images in `logits`.
    """
    parts = _parts(logits.labels)
    weights: list[np.ndarray] = []
    of_more: list[np.ndarray] = []
    for part in np.unique(parts):
        rest = parts != part
        missing = ~np.isin(more.labels, logits.labels[rest])
        classes = sum(
            len(np.unique(labels[used]))
            for labels, used in ((logits.labels, rest), (more.labels, missing))
        )
        weights.append(_weights(logits.labels, rest, classes))
        of_more.append(_weights(more.labels, missing, classes))
    predictions = _weighted_predictions(logits, np.array(weights))
    predictions += _weighted_predictions(more, np.array(of_more))
    return HeldOutLogs(parts, log_prediction(predictions).astype(np.float32))


def _weights(labels: np.ndarray, used: np.ndarray, classes: int) -> np.ndarray:
    """Of images in a mean over K classes, float64 `[N]`: 1 / (K N_k) of those that are used."""
    counts = np.bincount(labels[used], minlength=labels.max(initial=0) + 1)
    return np.asarray(used / (max(1, classes) * np.maximum(1, counts)[labels]))


def _weighted_predictions(logits: LazyLogits, weights: np.ndarray) -> np.ndarray:
    """Sums of the images' softmax with weights float64 `[P, N]`: float64 `[P, C]`."""
    total = np.zeros((len(weights), logits.classes))
    if not weights.any():
        return total
    for rows, some in logits.blocks():
        of_rows = weights[:, rows]
        for start in range(0, len(some), _ROWS_IN_FLOAT64):
            each = slice(start, start + _ROWS_IN_FLOAT64)
            total += of_rows[:, each] @ softmax(np.asarray(some[each], np.float64), axis=1)
    return total


def held_out_log_predictions(
    logits: np.ndarray, labels: np.ndarray, more: np.ndarray, more_labels: np.ndarray
) -> np.ndarray:
    """`held_out_logs` of logits in memory, float32 `[N, C]`.

    Args:
        logits: float `[N, C]`.
        labels: int `[N]`.
        more: float `[M, C]`.
        more_labels: int `[M]`.
    """
    images, others = (
        LazyLogits.of_array(np.asarray(values), np.asarray(each))
        for values, each in ((logits, labels), (more, more_labels))
    )
    return held_out_logs(images, others).of(slice(None))


def corrected_blocks(
    logits: LazyLogits, logs: HeldOutLogs, strength: float
) -> Iterator[np.ndarray]:
    """z - t log p of all images in their order, float `[B, C]` each."""
    for rows, some in logits.blocks():
        yield some - logs.of(rows, strength)


def choose_strength(logits: LazyLogits, logs: HeldOutLogs) -> float:
    """The t of `STRENGTHS` with the highest mean class accuracy, the smaller of equals.

    Args:
        logits: of validation images; without any, t is 0.
        logs: of `held_out_logs`.
    """
    if not len(logits.labels):
        return 0.0
    predicted = np.empty((len(STRENGTHS), len(logits.labels)), np.int64)
    for rows, some in logits.blocks():
        for place, strength in enumerate(STRENGTHS):
            predicted[place, rows] = (some - logs.of(rows, strength)).argmax(axis=1)
    accuracies = [mean_class_accuracy(logits.labels, each) for each in predicted]
    return max(zip(STRENGTHS, accuracies, strict=True), key=lambda each: (each[1], -each[0]))[0]


def _parts(labels: np.ndarray) -> np.ndarray:
    """One of `_PARTS` for each image, the images of a class in turn: int `[N]`."""
    parts = np.zeros(len(labels), int)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        parts[members] = np.arange(len(members)) % _PARTS
    return parts

"""What a teacher's features are worth, from training images alone: for splits without validation.

accuracy = held_out_accuracy(features, labels, seed=0)      # 0..1, or None

A linear classifier with balanced classes is fitted to four of five images of each class, in closed
form, and predicts the fifth. The calibrated classifier itself cannot tell: it has seen all images.
"""

import numpy as np
from sklearn.linear_model import RidgeClassifier
from sklearn.preprocessing import StandardScaler

_HELD_OUT = 5
# Fitting takes memory and time of its own; more images tell little more of an accuracy.
_MOST_IMAGES = 20_000
_FEATURES = 4096
# Of standardized features; those of a few images of a class would else be learned by heart.
_ALPHA = 300.0


def held_out_accuracy(features: np.ndarray, labels: np.ndarray, seed: int) -> float | None:
    """Accuracy on held-out images, mean over the classes that have some.

    Args:
        features: of one view of each image, float `[N, d_T]`.
        labels: int `[N]`.
        seed: of the draw.

    Returns:
        0..1; None where no class has two images, or all images have one class.
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    features, labels = np.asarray(features[order], np.float32), labels[order]
    held_out = _draw_fifth(labels)
    if not held_out.any() or len(np.unique(labels)) < 2:
        return None
    scaler = StandardScaler().fit(features[~held_out])
    classifier = RidgeClassifier(alpha=_ALPHA, class_weight="balanced")
    classifier.fit(scaler.transform(features[~held_out]), labels[~held_out])
    right = classifier.predict(scaler.transform(features[held_out])) == labels[held_out]
    return float(np.mean([right[labels[held_out] == c].mean() for c in set(labels[held_out])]))


def most_images(feature_size: int) -> int:
    """Images for `held_out_accuracy`: 20,000, and fewer where each has more than 4,096 features."""
    return _MOST_IMAGES * _FEATURES // max(feature_size, _FEATURES)


def draw_images(labels: np.ndarray, seed: int, most: int = _MOST_IMAGES) -> np.ndarray:
    """Images for `held_out_accuracy`: all, or of large classes as many as of others.

    Args:
        labels: int `[N]`.
        seed: of the draw.
        most: images, about; rare classes keep all of theirs.

    Returns:
        Their indices, sorted.
    """
    counts = np.bincount(labels)
    limits = np.unique(counts)
    fitting = limits[[np.minimum(counts, limit).sum() <= most for limit in limits]]
    limit = max(fitting.max(initial=0), most // max(np.count_nonzero(counts), 1), 2)
    order = np.random.default_rng(seed).permutation(len(labels))
    rank = np.empty(len(labels), np.int64)
    for label in np.unique(labels):
        places = order[labels[order] == label]
        rank[places] = np.arange(len(places))
    return np.flatnonzero(rank < limit)


def _draw_fifth(labels: np.ndarray) -> np.ndarray:
    """Every fifth image of each class, and one of a class of two to four, bool `[N]`."""
    held_out = np.zeros(len(labels), bool)
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        held_out[places[1::_HELD_OUT]] = True
    return held_out

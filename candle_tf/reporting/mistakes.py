"""Test images that were classified wrongly, chosen by confidence and by class.

confident_mistakes(labels, logits, pixels, names)       # those it was most sure of
mistakes_by_class(labels, logits, pixels, names)        # one of each of the worst classes
"""

from collections.abc import Sequence

import numpy as np

from candle_tf.metrics import softmax
from candle_tf.reporting.html import Figure, Gallery, encode_png
from candle_tf.reporting.table import printable

_SHOWN = 12
# Small images are shown with their own pixels, larger.
_SIDE = 128


def confident_mistakes(
    labels: np.ndarray, logits: np.ndarray, pixels: np.ndarray, names: Sequence[str]
) -> Gallery:
    """The mistakes with the highest confidence, one of each class at most.

    Args:
        labels: int `[N]`.
        logits: float `[N, C]`.
        pixels: uint8 `[N, S, S, 3]`.
        names: C names.
    """
    chosen = mistaken_images(labels, logits)
    return _gallery(
        chosen, labels, logits, pixels, names, "Mistakes that the student was most sure of:"
    )


def mistaken_images(labels: np.ndarray, logits: np.ndarray) -> list[int]:
    """Places of the images that `confident_mistakes` shows; arguments as there."""
    confidence, wrong = _confidence(labels, logits)
    order = wrong[np.argsort(-confidence[wrong], kind="stable")]
    return _first_of_each_class(order, labels)


def mistakes_by_class(
    labels: np.ndarray, logits: np.ndarray, pixels: np.ndarray, names: Sequence[str]
) -> Gallery:
    """A mistake of each of the least accurate classes; arguments as `confident_mistakes`."""
    _, wrong = _confidence(labels, logits)
    right = logits.argmax(axis=1) == labels
    totals = np.bincount(labels, minlength=len(names))
    hits = np.bincount(labels, weights=right, minlength=len(names))
    accuracy = np.divide(hits, totals, out=np.full(len(names), 2.0), where=totals > 0)
    order = wrong[np.argsort(accuracy[labels[wrong]], kind="stable")]
    chosen = _first_of_each_class(order, labels)
    return _gallery(
        chosen, labels, logits, pixels, names, "A mistake of each of the least accurate classes:"
    )


def _confidence(labels: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Confidence of each image `[N]`, and the indices of those classified wrongly."""
    return softmax(logits).max(axis=1), np.flatnonzero(logits.argmax(axis=1) != labels)


def _first_of_each_class(order: np.ndarray, labels: np.ndarray) -> list[int]:
    first: dict[int, int] = {}
    for index in order:
        first.setdefault(int(labels[index]), int(index))
    return list(first.values())[:_SHOWN]


def _gallery(
    chosen: list[int],
    labels: np.ndarray,
    logits: np.ndarray,
    pixels: np.ndarray,
    names: Sequence[str],
    caption: str,
) -> Gallery:
    if not chosen:
        return Gallery([], "No test image was classified wrongly.")
    figures = []
    for index in chosen:
        scores = softmax(logits[index])
        predicted = int(scores.argmax())
        told = (
            f"{printable(names[labels[index]])}, taken for {printable(names[predicted])} "
            f"({100 * scores[predicted]:.0f} %)"
        )
        figures.append(Figure(_encode(pixels[index]), alt=told, caption=told))
    return Gallery(figures, caption)


def _encode(pixels: np.ndarray) -> bytes:
    factor = -(-_SIDE // max(pixels.shape[:2]))
    return encode_png(pixels.repeat(factor, axis=0).repeat(factor, axis=1))

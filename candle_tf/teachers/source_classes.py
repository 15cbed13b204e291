"""The classes that a teacher was itself trained on, as a linear classifier of its features.

kernel, bias = source_classifier(teacher.parts, lambda: features)
targets = SourceTargets(features, kernel, bias, precomputed)       # `data.targets.Targets`
targets.batch(views)["teacher_logits"]                             # float32 [B, C_0]
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from sklearn.cluster import MiniBatchKMeans

from candle_tf.data.augment.precomputed_views import PrecomputedViews
from candle_tf.data.augment.views import Views
from candle_tf.errors import UserError
from candle_tf.teachers.efficientnet_lite import VARIANTS, imagenet_head
from candle_tf.teachers.feature_parts import FeaturePart

PROTOTYPES = 512
# Rows of features that prototypes are made from.
_ROWS = 50_000
_SHARPNESS_ROWS = 5_000
# Mean probability of the likeliest prototype, which decides how sharp the classifier is.
_CONFIDENCE = 0.5
_ROWS_READ = 4096


@dataclass(frozen=True)
class SourceTargets:
    """Stored features, and what the source classifier makes of them when they are asked for.

    Attributes:
        features: float16 [R, d_T]; an array or a memory map.
        kernel, bias: the source classifier, float32 [d_T, C_0] and [C_0].
        precomputed: which view each of the R rows is of.
    """

    features: np.ndarray
    kernel: np.ndarray
    bias: np.ndarray
    precomputed: PrecomputedViews

    @property
    def feature_size(self) -> int:
        """d_T."""
        return self.features.shape[1]

    @property
    def classes(self) -> int:
        """C_0."""
        return len(self.bias)

    def batch(self, views: Views) -> dict[str, np.ndarray]:
        """See `Targets.batch`."""
        return self._at(self.precomputed.rows(views))

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """All outputs, in the order of rows."""
        for start in range(0, len(self.features), _ROWS_READ):
            yield self._at(slice(start, start + _ROWS_READ))

    def _at(self, rows: np.ndarray | slice) -> dict[str, np.ndarray]:
        features = self.features[rows].astype(np.float32)
        return {"teacher_features": features, "teacher_logits": features @ self.kernel + self.bias}


def source_classifier(
    parts: Sequence[FeaturePart], features: Callable[[], np.ndarray], seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """A frozen classifier to distil through.

    Args:
        parts: of the teacher's features. EfficientNet-Lite brings the classifier of ImageNet's
            1,000 classes: the first one's is taken, of the features of its last layer (at several
            resolutions side by side, of their mean), and all other weights are 0. Where there
            is none, prototypes of all features stand for classes (`prototypes`).
        features: gives those of the teacher, float [N, d]; called only where prototypes are made.
        seed: of the prototypes.

    Returns:
        Kernel float32 [d, C_0] and bias float32 [C_0].

    Raises:
        UserError: where the teacher's classifier cannot be read, or there are too few features.
    """
    own = next((part for part in parts if part.teacher in VARIANTS and part.layer == 0), None)
    if own is None:
        return prototypes(features(), seed)
    file = Path(own.weights).read_bytes() if own.weights else None
    kernel, bias = imagenet_head(own.teacher, file, own.weights)
    # As many as resolutions.
    share = own.scale * sum(part == own for part in parts)
    rows = [
        kernel / np.float32(share) if part == own else np.zeros((part.size, len(bias)), np.float32)
        for part in parts
    ]
    return np.concatenate(rows), bias


def draw_rows(blocks: Iterable[np.ndarray], most: int, seed: int = 0) -> np.ndarray:
    """Rows of features drawn from all blocks alike, in their order; all where there are few.

    Args:
        blocks: float [B, d] each; gone through once.
        most: how many rows at most; about half of them are drawn at least, where there are so many.
        seed: of the draw.
    """
    rng, share = np.random.default_rng(seed), 1.0
    rows, draws = [], []
    for block in blocks:
        draw = rng.random(len(block))
        rows.append(block[draw < share])
        draws.append(draw[draw < share])
        while sum(map(len, rows)) > most:
            share /= 2
            rows = [each[draw < share] for each, draw in zip(rows, draws, strict=True)]
            draws = [draw[draw < share] for draw in draws]
    return np.concatenate(rows)


def prototypes(
    features: np.ndarray, seed: int = 0, count: int = PROTOTYPES
) -> tuple[np.ndarray, np.ndarray]:
    """k-means prototypes c as a classifier: logits (e . c - |c|^2 / 2) / s.

    These are, up to a constant, -|e - c|^2 / (2 s): the posterior of a mixture of Gaussians of
    variance s. s is chosen so that the likeliest prototype has the probability 1/2 on average.

    Args:
        features: float [N, d].
        seed: of k-means.
        count: of prototypes; fewer where there are not 4 features for each.

    Returns:
        Kernel float32 [d, count] and bias float32 [count].

    Raises:
        UserError: for fewer than 8 features.
    """
    if len(features) < 8:
        raise UserError(f"{len(features)} images are too few to make prototypes from: give more.")
    rows = np.random.default_rng(seed).permutation(len(features))[:_ROWS]
    sample = np.asarray(features[np.sort(rows)], np.float32)
    count = min(count, len(sample) // 4)
    means = MiniBatchKMeans(count, random_state=seed, n_init=1, batch_size=4096).fit(sample)
    centres = means.cluster_centers_.astype(np.float64)
    # Of all images: rows are sorted, so that the first ones are of the first classes alone.
    spread = sample[:: -(-len(sample) // _SHARPNESS_ROWS)]
    logits = spread @ centres.T - 0.5 * np.sum(centres**2, axis=1)
    sharpness = _sharpness(logits)
    kernel, bias = sharpness * centres.T, -0.5 * sharpness * np.sum(centres**2, axis=1)
    return kernel.astype(np.float32), bias.astype(np.float32)


def _sharpness(logits: np.ndarray) -> float:
    """The factor that brings the mean probability of the likeliest class to `_CONFIDENCE`."""
    centred = logits - logits.max(axis=1, keepdims=True)
    low, high = 1e-8, 1e8
    for _ in range(60):
        middle = np.sqrt(low * high)
        confidence = np.mean(1.0 / np.exp(middle * centred).sum(axis=1))
        low, high = (middle, high) if confidence < _CONFIDENCE else (low, middle)
    return float(np.sqrt(low * high))

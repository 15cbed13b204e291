"""The calibrated teacher's outputs as targets of the student: both kinds of `data.targets.Targets`.

    targets = cached_targets(features, keys, precomputed, classifier, folder)    # CachedTargets
    targets = OnlineTargets(OnlineFeatures(...), classifier)
    targets.batch(views)["teacher_logits"]                                       # float32 [B, C]

Cached targets are computed once for each precomputed view. Online targets are computed in every
step, for new views in every epoch, at the cost of a forward pass of the teacher at each resolution.
For the same views both are equal, to the precision of float16 (`features.features_of`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.precomputed_views import PrecomputedViews
from candle_tf.data.augment.views import Views
from candle_tf.data.cached_arrays import stored_array
from candle_tf.teachers.feature_parts import StoredFeatures
from candle_tf.teachers.features import OnlineFeatures, as_float16, average_features
from candle_tf.teachers.top_k import TopKLogits, open_top_k
from candle_tf.weight_files.checksums import fingerprint

# Raise it when the logits of given features change for another reason than the classifier.
_VERSION = 1

_ROWS_COMPUTED = 512
_ROWS_READ = 4096
_ONLINE_BATCH = 64
# Enough images for a stable mean; the teacher's forward pass of all would cost an epoch.
_ONLINE_SAMPLE = 2048


@dataclass(frozen=True)
class CachedTargets:
    """Stored outputs: arrays or memory maps, of which no more is read than is asked for.

    Attributes:
        features: float16 [R, d_T], pooled, averaged over resolutions.
        logits: float16 [R, C], of the calibrated classifier, or the largest of them.
        precomputed: which view each of the R rows is of.
    """

    features: np.ndarray
    logits: np.ndarray | TopKLogits
    precomputed: PrecomputedViews

    @property
    def feature_size(self) -> int:
        """d_T."""
        return self.features.shape[1]

    @property
    def classes(self) -> int:
        """C."""
        return self.logits.shape[1]

    def batch(self, views: Views) -> dict[str, np.ndarray]:
        """See `Targets.batch`."""
        return self._at(self.precomputed.rows(views))

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """All outputs, in the order of rows.

        Of images with more views than others as many as those have, the first: all images have the
        same weight, as in an epoch of the student.
        """
        fewest = int(self.precomputed.counts.min())
        total = fewest * len(self.precomputed.counts)
        for start in range(0, total, _ROWS_READ):
            places = np.arange(start, min(start + _ROWS_READ, total))
            yield self.batch(Views(*np.divmod(places, fewest)))

    def _at(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        return {
            "teacher_features": self.features[rows].astype(np.float32),
            "teacher_logits": self.logits[rows].astype(np.float32),
        }


@dataclass(frozen=True)
class OnlineTargets:
    """Outputs computed when they are asked for.

    Attributes:
        features: of the training images.
        classifier: calibrated, from features [B, d_T] to "logits" [B, C].
    """

    features: OnlineFeatures
    classifier: tf.keras.Model

    @property
    def feature_size(self) -> int:
        """d_T."""
        return self.features.feature_size

    @property
    def classes(self) -> int:
        """C."""
        return self.classifier.output["logits"].shape[-1]

    def batch(self, views: Views) -> dict[str, np.ndarray]:
        """See `Targets.batch`."""
        averaged = np.mean(self.features.batch(views), axis=0)
        logits = self.classifier(averaged, training=False)["logits"].numpy()
        return {"teacher_features": averaged, "teacher_logits": logits}

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """Outputs of one view of each of at most 2,048 images, the same every time.

        Where numbers of views decide their kinds, of all kinds, as in an epoch.
        """
        count = len(self.features.subset)
        order = np.random.default_rng([self.features.augmentation.seed, count]).permutation(count)
        for start in range(0, min(count, _ONLINE_SAMPLE), _ONLINE_BATCH):
            images = order[start : min(start + _ONLINE_BATCH, _ONLINE_SAMPLE)]
            numbers = self.features.augmentation.numbers_at(images, epoch=0)
            yield self.batch(Views(images, numbers))


def cached_targets(
    features: Sequence[StoredFeatures],
    keys: Sequence[Any],
    precomputed: PrecomputedViews,
    classifier: tf.keras.Model,
    folder: Path,
    *,
    top_k: int = 0,
    temperature: float = 1.0,
) -> CachedTargets:
    """Averages features over resolutions, classifies them, and stores both.

    The classifier is linear, so the logits of averaged features are the averaged logits. A view and
    its mirror image are averaged too: one row holds for both.

    Args:
        features: float16 [R, d_T] of each resolution; or of all, side by side, as the only one.
        keys: `features.features_key` of each, or of `feature_parts.join_arrays`.
        precomputed: which view each of the R rows is of.
        classifier: from features [B, d_T] to "logits" [B, C].
        folder: cache folder.
        top_k: where above 0 and below C, so many logits of each row are stored (`top_k`).
        temperature: for that, T of the loss.

    Raises:
        UserError: if the disk is too full, or an output is not finite in float16.
    """
    averaged, key = average_features(features, keys, precomputed.rows_per_view, folder)

    def classify(start: int, stop: int) -> np.ndarray:
        batch = tf.constant(averaged[start:stop].astype(np.float32))
        return as_float16(classifier(batch, training=False)["logits"].numpy(), "the classifier")

    key = {**key, "classifier": fingerprint(classifier), "version": _VERSION}
    classes = classifier.output["logits"].shape[-1]
    logits: np.ndarray | TopKLogits
    if 0 < top_k < classes:
        logits = open_top_k(folder, key, len(averaged), classes, top_k, temperature, classify)
    else:
        shape = (len(averaged), classes)
        logits = stored_array(
            folder, "targets-logits", key, shape, "float16", _ROWS_COMPUTED, classify
        )
    return CachedTargets(averaged, logits, replace(precomputed, mirror=False))

"""The frozen teacher run on every batch, for those who want new views in every epoch.

It shares its eyes with the cache (`features.features_at`): on the same views both say the same, to
the precision of float16. It costs a teacher's forward pass a resolution at every step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.precomputed_views import FixedViews
from candle_tf.data.subset import Subset
from candle_tf.teachers.backbones import Teacher
from candle_tf.teachers.features import features_at

_BATCH = 64
# As many images as settle a mean; a teacher's pass over all of them would cost an epoch.
_SAMPLE = 2048


@dataclass(frozen=True)
class OnlineFeatures:
    """Features of any view at several resolutions, computed when asked for.

    Attributes:
        teacher: frozen.
        examples: N images.
        views: names the transform; its counts are not heeded, view numbers may be any.
        resolutions: sides in pixels.
        seed: of the views.
    """

    teacher: Teacher
    examples: Subset
    views: FixedViews
    resolutions: tuple[int, ...]
    seed: int

    def batch(self, index: np.ndarray, numbers: np.ndarray) -> list[np.ndarray]:
        """float32 [B, d_T] of each resolution, for views `numbers` of examples `index`."""
        return [
            features_at(
                self.teacher, self.examples, index, numbers, self.views, resolution, self.seed
            )
            for resolution in self.resolutions
        ]


@dataclass(frozen=True)
class OnlineTargets:
    """`data.targets.Targets`, computed when asked for.

    Attributes:
        features: of the training images.
        classifier: calibrated, from features [B, d_T] to "logits" [B, C].
    """

    features: OnlineFeatures
    classifier: tf.keras.Model

    @property
    def feature_size(self) -> int:
        """d_T."""
        return self.features.teacher.feature_size

    @property
    def classes(self) -> int:
        """C."""
        return self.classifier.output["logits"].shape[-1]

    def batch(self, index: np.ndarray, numbers: np.ndarray) -> dict[str, np.ndarray]:
        """Answers for examples `index` at views `numbers`; see `Targets.batch`."""
        averaged = np.mean(self.features.batch(index, numbers), axis=0)
        logits = self.classifier(averaged, training=False)["logits"].numpy()
        return {"teacher_features": averaged, "teacher_logits": logits}

    def blocks(self) -> Iterator[dict[str, np.ndarray]]:
        """Answers to the first view of a sample of at most 2,048 images, the same every time."""
        count = len(self.features.examples)
        order = np.random.default_rng([self.features.seed, count]).permutation(count)
        for start in range(0, min(count, _SAMPLE), _BATCH):
            index = order[start : min(start + _BATCH, _SAMPLE)]
            yield self.batch(index, np.zeros(len(index), np.int64))

"""The calibrated teacher's answers to fixed views, stored beside its features."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.precomputed_views import FixedViews, same_for_all
from candle_tf.data.augment.transform import WHOLE
from candle_tf.data.cached_arrays import stored_array
from candle_tf.data.targets import Answers
from candle_tf.teachers.features import as_float16, averaged_features
from candle_tf.teachers.weights import fingerprint

_BLOCK = 512


def cached_targets(
    features: Sequence[np.ndarray],
    keys: Sequence[Any],
    views: FixedViews,
    classifier: tf.keras.Model,
    folder: Path,
) -> Answers:
    """Averages features over resolutions, classifies them, and stores both.

    The classifier is linear, so its answer to averaged features is the average of its answers. Of
    whole images the mirror image is averaged in too, and there is one answer for all views.

    Args:
        features: float16 [R, d_T] of each resolution.
        keys: `features.features_key` of each.
        views: what the R rows are of.
        classifier: from features [B, d_T] to "logits" [B, C].
        folder: cache folder.

    Raises:
        UserError: where the disk is too full, or an answer is no finite number in float16.
    """
    together = int(views.counts[0]) if views.transform == WHOLE else 1
    averaged, key = averaged_features(features, keys, together, folder)
    rows = len(averaged)

    def classify(start: int, stop: int) -> np.ndarray:
        batch = tf.constant(averaged[start:stop].astype(np.float32))
        return as_float16(classifier(batch, training=False)["logits"].numpy(), "the classifier")

    logits = stored_array(
        folder,
        "answers-logits",
        {**key, "classifier": fingerprint(classifier)},
        (rows, classifier.output["logits"].shape[-1]),
        "float16",
        _BLOCK,
        classify,
    )
    return Answers(averaged, logits, same_for_all(WHOLE, rows) if together > 1 else views)

"""The frozen teacher's pooled features, computed once per image, view and resolution and stored.

views = teacher_views("same", Transform("pad_crop_flip"), counts=np.full(len(examples), 4))
stored = view_features(teacher, examples, views, resolution=160, seed=0, folder=cache)
stored.shape                                                     # (views.total, 1280), float16
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.precomputed_views import FixedViews, same_for_all
from candle_tf.data.augment.transform import (
    TRANSFORM_VERSION,
    WHOLE,
    Transform,
    raw_batch,
    render_batch,
)
from candle_tf.data.cached_arrays import key_digest, stored_array
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.teachers.backbones import Teacher

_BLOCK = 512
# Pixels that the teacher sees at once: 64 images of 224 px. More take no less time an image, and
# the first maps of a backbone take some hundred bytes a pixel.
_PIXELS = 64 * 224**2
_LARGEST_BATCH = 64


def teacher_views(teacher_view: str, transform: Transform, counts: np.ndarray) -> FixedViews:
    """The views the teacher looks at.

    Args:
        teacher_view: "whole" (the whole image and, where the student's views are mirrored, its
            mirror image) or "same" (the student's own fixed views).
        transform: the student's.
        counts: number of fixed views of each image for "same", int64 [N].
    """
    if teacher_view == "same" and transform != WHOLE:
        return FixedViews(transform, counts)
    return same_for_all(WHOLE, len(counts), 2 if transform.augmentation.endswith("_flip") else 1)


def view_features(
    teacher: Teacher,
    examples: Subset,
    views: FixedViews,
    resolution: int,
    seed: int,
    folder: Path,
) -> np.ndarray:
    """Features of every view at one resolution, computed where they are not stored yet.

    Args:
        teacher: frozen.
        examples: N images.
        views: R fixed views of them.
        resolution: side in pixels at which the teacher sees each view.
        seed: of the views.
        folder: cache folder.

    Returns:
        float16 [R, d_T], memory-mapped.

    Raises:
        UserError: where the disk is too full, or a feature is no finite number in float16.
    """

    def compute(start: int, stop: int) -> np.ndarray:
        index, numbers = views.of_rows(np.arange(start, stop))
        values = features_at(teacher, examples, index, numbers, views, resolution, seed)
        return as_float16(values, teacher.name)

    return stored_array(
        folder,
        f"features-{resolution}px",
        features_key(teacher, examples, views, resolution, seed),
        (views.total, teacher.feature_size),
        "float16",
        _BLOCK,
        compute,
    )


def averaged_features(
    features: Sequence[np.ndarray], keys: Sequence[Any], views_together: int, folder: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """The mean over resolutions, stored; no more than a block of it is ever in memory.

    Args:
        features: float16 [R, d_T] of each resolution.
        keys: `features_key` of each.
        views_together: mean of so many successive rows; 1 keeps every view.
        folder: cache folder.

    Returns:
        float16 [R / views_together, d_T], memory-mapped, and the key it is stored under.
    """
    key = {"mean of": [key_digest(key) for key in keys], "views": views_together}
    rows, size = features[0].shape

    def compute(start: int, stop: int) -> np.ndarray:
        mean = mean_rows(features, start * views_together, stop * views_together)
        grouped = mean.reshape(stop - start, views_together, size)
        return as_float16(grouped.mean(axis=1), "the teacher")

    shape = (rows // views_together, size)
    stored = stored_array(folder, "answers-features", key, shape, "float16", _BLOCK, compute)
    return stored, key


def mean_rows(features: Sequence[np.ndarray], start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) averaged over resolutions, float32 [stop - start, d_T]."""
    total = features[0][start:stop].astype(np.float32)
    for further in features[1:]:
        total += further[start:stop]
    return total / np.float32(len(features))


def features_key(
    teacher: Teacher, examples: Subset, views: FixedViews, resolution: int, seed: int
) -> dict[str, Any]:
    """All that features depend on: weights, split, transforms, resolution and seed; JSON-ready."""
    rows = np.ascontiguousarray(examples.rows, "<i8")
    return {
        "teacher": teacher.fingerprint,
        "images": examples.images.digest,
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "views": dict(views.key()),
        "transform_version": TRANSFORM_VERSION,
        "resolution": resolution,
        # Whole images are the same under every seed.
        "seed": seed if views.transform != WHOLE else None,
    }


def features_at(
    teacher: Teacher,
    examples: Subset,
    index: np.ndarray,
    numbers: np.ndarray,
    views: FixedViews,
    resolution: int,
    seed: int,
) -> np.ndarray:
    """Features of views `numbers` of examples `index`, both int64 [B]; float32 [B, d_T].

    However large B is, the teacher sees batches of one bounded size.
    """
    size = int(np.clip(_PIXELS // resolution**2, 1, _LARGEST_BATCH))
    parts = []
    for start in range(0, len(index), size):
        part = slice(start, start + size)
        raw = raw_batch(examples, index[part], numbers[part], views.transform, seed)
        pixels = _renderer(views.transform, seed, resolution)(raw)
        if views.transform == WHOLE:
            pixels = _mirrored(pixels, tf.constant(numbers[part] == 1))
        parts.append(teacher.features(pixels).numpy())
    return np.concatenate(parts)


def as_float16(values: np.ndarray, origin: str) -> np.ndarray:
    """Float values as they are stored.

    Raises:
        UserError: where one is not finite in float16, which reaches to 65,504.
    """
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16)
    if not np.isfinite(stored).all():
        raise UserError(
            f"{origin} gives the value {values[~np.isfinite(stored)][0]:g}, which cannot be "
            "stored in 16 bits; check its weights, or use another teacher."
        )
    return stored


# One trace per resolution and kind of view, whatever the size of the last batch.
@lru_cache
def _renderer(
    transform: Transform, seed: int, resolution: int
) -> Callable[[Mapping[str, np.ndarray]], tf.Tensor]:
    def render(raw: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return render_batch(raw, transform, seed, resolution)

    return tf.function(render, reduce_retracing=True)


@tf.function(reduce_retracing=True)
def _mirrored(pixels: tf.Tensor, mirrored: tf.Tensor) -> tf.Tensor:
    return tf.where(mirrored[:, None, None, None], tf.reverse(pixels, axis=[2]), pixels)

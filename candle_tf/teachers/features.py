"""The frozen teacher's pooled features: cached for precomputed views, or online for any view.

augmentation, precomputed = teacher_views("same", student_augmentation, np.full(len(subset), 4))
features = cached_features(
    teacher, subset, augmentation, precomputed, resolution=160, folder=cache
)
features.shape                                      # [precomputed.total, 1280], float16
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from absl import logging

from candle_tf.data.augment.augmentation import WHOLE, Augmentation
from candle_tf.data.augment.precomputed_views import PrecomputedViews, same_for_all
from candle_tf.data.augment.views import Views
from candle_tf.data.cached_arrays import Shard, array_path, key_digest, stored_array
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.teachers.backbones import Teacher
from candle_tf.teachers.feature_parts import StoredFeatures, column_scales, resolution_groups
from candle_tf.teachers.stored_values import value_check

# Raise it when features of given weights and pixels change; those of pixels and of decoding are
# `AUGMENTATION_VERSION` and the versions in `data.images`.
_VERSION = 1

_BLOCK = 512
# Pixels in a batch of the teacher: 64 images of 224 px. Larger batches are no faster, and the first
# maps of a backbone take some hundred bytes a pixel.
_PIXELS = 64 * 224**2
_LARGEST_BATCH = 64
# Images that the scales of a teacher's parts are measured on.
_SCALED_IMAGES = 256


def teacher_views(
    teacher_view: str, augmentation: Augmentation, counts: np.ndarray
) -> tuple[Augmentation, PrecomputedViews]:
    """The views that the teacher's features are computed of.

    Args:
        teacher_view: "whole" (the whole image and, if the student's views are flipped, its mirror
            image) or "same" (the student's own precomputed views).
        augmentation: the student's.
        counts: number of precomputed views of each image for "same", int64 [N].
    """
    if teacher_view == "same" and not augmentation.is_whole:
        return augmentation, PrecomputedViews(counts)
    return WHOLE, same_for_all(len(counts), mirror=augmentation.flips)


def cached_features(
    teacher: Teacher,
    subset: Subset,
    augmentation: Augmentation,
    precomputed: PrecomputedViews,
    resolution: int,
    folder: Path,
    shard: Shard | None = None,
) -> np.ndarray:
    """Features of every precomputed view at one resolution; computes what is not stored yet.

    Args:
        teacher: frozen.
        subset: N images.
        augmentation: of the views.
        precomputed: R views of the images.
        resolution: side in pixels of the teacher's input.
        folder: cache folder.
        shard: computes this range of the rows alone; the others may be missing then.

    Returns:
        float16 [R, d_T], memory-mapped.

    Raises:
        UserError: if the disk is too full, or a feature is not finite in float16; where a plugin's
            teacher does not give some of the stored features any more.
    """
    name = f"features-{resolution}px"
    key = features_key(teacher, subset, augmentation, precomputed, resolution)

    def of_rows(rows: np.ndarray) -> np.ndarray:
        views = precomputed.of_rows(rows)
        return features_of(teacher, subset, augmentation, views, resolution)

    def compute(start: int, stop: int) -> np.ndarray:
        return as_float16(of_rows(np.arange(start, stop)), teacher.name)

    return stored_array(
        folder,
        name,
        key,
        (precomputed.total, teacher.feature_size),
        "float16",
        _BLOCK,
        compute,
        shard,
        check=value_check(
            teacher,
            array_path(folder, name, key),
            of_rows,
            tuple(part.size for part in teacher.parts),
        ),
    )


def scale_parts(teacher: Teacher, subset: Subset, resolution: int, folder: Path) -> Teacher:
    """A teacher whose parts have features of one size; one of a single part as it is.

    The scales (`feature_parts.column_scales`) are measured once on at most 256 whole images, and
    stored.

    Args:
        teacher: frozen, with all scales 1.
        subset: training images.
        resolution: side in pixels at which they are measured.
        folder: cache folder.

    Raises:
        UserError: if the disk is too full.
    """
    if len(teacher.parts) == 1:
        return teacher
    chosen = np.random.default_rng(0).permutation(len(subset))[:_SCALED_IMAGES]
    sample = Subset(subset.images, subset.rows[np.sort(chosen)], subset.labels[np.sort(chosen)])
    once = same_for_all(len(sample))

    def compute(_start: int, _stop: int) -> np.ndarray:
        views = once.of_rows(np.arange(once.total))
        return column_scales(features_of(teacher, sample, WHOLE, views, resolution), teacher.parts)

    count = len(teacher.parts)
    key = {"scales": features_key(teacher, sample, WHOLE, once, resolution)}
    scales = stored_array(folder, "feature-scales", key, (count,), "float32", count, compute)
    for part, scale in zip(teacher.parts, scales, strict=True):
        logging.info(
            "%s, layer %d from the end: %d features, times %.3g",
            part.teacher,
            part.layer + 1,
            part.size,
            scale,
        )
    return teacher.with_scales([float(scale) for scale in scales])


def average_features(
    features: Sequence[StoredFeatures], keys: Sequence[Any], rows_together: int, folder: Path
) -> tuple[np.ndarray, dict[str, Any]]:
    """The mean over resolutions, stored; no more than a block of it is ever in memory.

    Args:
        features: float16 [R, d_T] of each resolution; or of all, side by side, as the only one.
        keys: `features_key` of each, or of `feature_parts.join_arrays`.
        rows_together: mean of so many successive rows; 1 keeps every row.
        folder: cache folder.

    Returns:
        float16 [R / rows_together, d_T], memory-mapped, and the key it is stored under.
    """
    key = {
        "mean of": [key_digest(key) for key in keys],
        "rows together": rows_together,
        "version": _VERSION,
    }
    rows, size = features[0].shape

    def compute(start: int, stop: int) -> np.ndarray:
        mean = mean_rows(features, start * rows_together, stop * rows_together)
        grouped = mean.reshape(stop - start, rows_together, size)
        return as_float16(grouped.mean(axis=1), "the teacher")

    shape = (rows // rows_together, size)
    stored = stored_array(folder, "targets-features", key, shape, "float16", _BLOCK, compute)
    return stored, key


def mean_rows(features: Sequence[StoredFeatures], start: int, stop: int) -> np.ndarray:
    """Rows [start, stop) averaged over resolutions, float32 [stop - start, d_T]."""
    total = features[0][start:stop].astype(np.float32)
    for further in features[1:]:
        total += further[start:stop]
    return total / np.float32(len(features))


def features_key(
    teacher: Teacher,
    subset: Subset,
    augmentation: Augmentation,
    precomputed: PrecomputedViews,
    resolution: int,
) -> dict[str, Any]:
    """All that features depend on: weights, images, views and resolution; JSON-ready."""
    rows = np.ascontiguousarray(subset.rows, "<i8")
    key = {
        "version": _VERSION,
        "teacher": teacher.fingerprint,
        "images": subset.images.digest,
        "rows": hashlib.sha256(rows.tobytes()).hexdigest(),
        "augmentation": augmentation.key(),
        "views": dict(precomputed.key()),
        "resolution": resolution,
    }
    if len(teacher.parts) == 1:
        return key
    # Of the same weights, layers and scales differ.
    return {**key, "parts": [[part.size, part.layer, part.scale] for part in teacher.parts]}


def features_of(
    teacher: Teacher, subset: Subset, augmentation: Augmentation, views: Views, resolution: int
) -> np.ndarray:
    """Features of B views, float32 [B, d_T]; the teacher's batches stay small for any B."""
    size = int(np.clip(_PIXELS // resolution**2, 1, _LARGEST_BATCH))
    signature = tuple(augmentation.signature(subset, None).items())
    render = _renderer(augmentation, resolution, signature)
    parts = []
    for start in range(0, len(views), size):
        part = views[start : start + size]
        pixels = render(augmentation.draw(subset, part))
        if np.any(part.mirror):
            mirror = np.broadcast_to(part.mirror, [len(part)])
            pixels = _mirror(pixels, tf.constant(mirror))
        parts.append(teacher.features(pixels).numpy())
    return np.concatenate(parts)


@dataclass(frozen=True)
class OnlineFeatures:
    """Features of any view at several resolutions, computed when they are asked for.

    Attributes:
        teacher: frozen.
        subset: N images.
        augmentation: of the views.
        resolutions: sides in pixels.
        concatenate: the features at all of them are one row, side by side; else each a row.
    """

    teacher: Teacher
    subset: Subset
    augmentation: Augmentation
    resolutions: tuple[int, ...]
    concatenate: bool = False

    @property
    def feature_size(self) -> int:
        """Features in a row."""
        return self.teacher.feature_size * len(self._groups[0])

    @property
    def rows_per_view(self) -> int:
        """As many as resolutions, or 1."""
        return len(self._groups)

    @property
    def _groups(self) -> tuple[tuple[int, ...], ...]:
        return resolution_groups(self.resolutions, self.concatenate)

    def batch(self, views: Views) -> list[np.ndarray]:
        """The rows of B views, float32 [B, feature_size] each; their mean is the target."""
        return [self._row(views, resolutions) for resolutions in self._groups]

    def at(self, views: Views, places: np.ndarray) -> np.ndarray:
        """Some rows; nothing else is computed.

        Args:
            views: B views.
            places: int64 [P]; r * B + b stands for row r of view b: at resolution number r, or at
                all of them.

        Returns:
            float32 [P, feature_size].
        """
        numbers, chosen = np.divmod(places, len(views))
        features = np.empty((len(places), self.feature_size), np.float32)
        for number, resolutions in enumerate(self._groups):
            wanted = np.flatnonzero(numbers == number)
            if len(wanted):
                order = wanted[np.argsort(chosen[wanted], kind="stable")]
                at = chosen[order]
                these = Views(views.images[at], views.numbers[at])
                features[order] = self._row(these, resolutions)
        return features

    def _row(self, views: Views, resolutions: tuple[int, ...]) -> np.ndarray:
        each = [
            features_of(self.teacher, self.subset, self.augmentation, views, resolution)
            for resolution in resolutions
        ]
        return np.concatenate(each, axis=1) if len(each) > 1 else each[0]


def as_float16(values: np.ndarray, origin: str) -> np.ndarray:
    """Float values as they are stored.

    Raises:
        UserError: if one is not finite in float16, which reaches to 65,504.
    """
    with np.errstate(over="ignore"):
        stored = values.astype(np.float16)
    if not np.isfinite(stored).all():
        raise UserError(
            f"{origin} gives the value {values[~np.isfinite(stored)][0]:g}, which cannot be "
            "stored in 16 bits; check its weights, or use another teacher."
        )
    return stored


# One trace per augmentation and resolution, whatever the sizes of the images and of the last batch.
@lru_cache
def _renderer(
    augmentation: Augmentation, resolution: int, signature: tuple[tuple[str, tf.TensorSpec], ...]
) -> Callable[[Mapping[str, np.ndarray]], tf.Tensor]:
    def render(batch: Mapping[str, tf.Tensor]) -> tf.Tensor:
        return augmentation.render(batch, resolution)

    return tf.function(render, input_signature=[dict(signature)])


@tf.function(reduce_retracing=True)
def _mirror(pixels: tf.Tensor, mirror: tf.Tensor) -> tf.Tensor:
    return tf.where(mirror[:, None, None, None], tf.reverse(pixels, axis=[2]), pixels)

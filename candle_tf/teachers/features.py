"""The frozen teacher's pooled features, computed once per picture, view and resolution and stored.

views = teacher_views("whole", "pad_crop_flip", count=4)
stored = view_features(teacher, examples, views, resolution=160, seed=0, folder=cache)
stored.shape                                                     # (2, N, 1280), float16
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from candle_tf.data.arrays import stored_array
from candle_tf.data.pipeline import Examples
from candle_tf.data.views import render_views
from candle_tf.teachers.backbones import Teacher

_BLOCK = 512
_BATCH = 64


@dataclass(frozen=True)
class TeacherView:
    """One fixed view of every picture: number `number` of `augmentation`, or its mirror image."""

    augmentation: str = "none"
    number: int = 0
    mirrored: bool = False


def teacher_views(teacher_view: str, augmentation: str, count: int) -> list[TeacherView]:
    """The views the teacher looks at.

    Args:
        teacher_view: "whole" (the whole picture and, where the student's views are mirrored, its
            mirror image) or "same" (the student's own first `count` views).
        augmentation: the student's.
        count: number of fixed views for "same".
    """
    if teacher_view == "same":
        return [TeacherView(augmentation, number) for number in range(count)]
    mirrored = [TeacherView(mirrored=True)] if augmentation.endswith("_flip") else []
    return [TeacherView(), *mirrored]


def view_features(
    teacher: Teacher,
    examples: Examples,
    views: list[TeacherView],
    resolution: int,
    seed: int,
    folder: Path,
) -> np.ndarray:
    """Features of every view at one resolution, computed where they are not stored yet.

    Args:
        teacher: frozen.
        examples: N pictures.
        views: V fixed views.
        resolution: side in pixels at which the teacher sees each view.
        seed: of the views.
        folder: cache folder.

    Returns:
        float16 [V, N, d_T], memory-mapped.
    """
    count = len(examples)
    key = {
        "teacher": teacher.fingerprint,
        "pictures": examples.pictures.digest,
        "rows": examples.rows.tolist(),
        "views": [dataclasses.asdict(view) for view in views],
        "resolution": resolution,
        # Whole pictures are the same under every seed.
        "seed": seed if any(view.augmentation != "none" for view in views) else None,
    }

    def compute(start: int, stop: int) -> np.ndarray:
        parts = [
            _features_of(
                teacher, examples, views[row // count], row % count, end - row, resolution, seed
            )
            for row, end in _batches(start, stop, count)
        ]
        return np.concatenate(parts).astype(np.float16)

    shape = (len(views) * count, teacher.feature_size)
    stored = stored_array(
        folder, f"features-{resolution}px", key, shape, "float16", _BLOCK, compute
    )
    return stored.reshape(len(views), count, teacher.feature_size)


def _batches(start: int, stop: int, count: int) -> list[tuple[int, int]]:
    """Ranges of at most `_BATCH` rows within [start, stop) that do not run over two views."""
    ranges = []
    while start < stop:
        end = min(start + _BATCH, stop, (start // count + 1) * count)
        ranges.append((start, end))
        start = end
    return ranges


def _features_of(
    teacher: Teacher,
    examples: Examples,
    view: TeacherView,
    first: int,
    size: int,
    resolution: int,
    seed: int,
) -> np.ndarray:
    batch = examples.batch(np.arange(first, first + size))
    pixels = _rendered(
        tf.constant(batch["pictures"]),
        tf.constant(batch["keys"]),
        tf.fill([size], tf.constant(view.number, tf.int64)),
        view.augmentation,
        seed,
        resolution,
        view.mirrored,
    )
    return teacher.features(pixels).numpy()


# One trace per resolution and kind of view, whatever the size of the last batch.
_rendered = tf.function(render_views, reduce_retracing=True)

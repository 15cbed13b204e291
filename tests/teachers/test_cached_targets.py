"""Targets are computed and read in blocks: memory does not grow with the number of images."""

import tracemalloc

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np

from candle_tf.data.augment.precomputed_views import same_for_all
from candle_tf.data.augment.views import first_views
from candle_tf.methods.calibration import feature_batches, teacher_classifier
from candle_tf.teachers.targets import cached_targets

SIZE, CLASSES = 32, 8


def peak_megabytes(rows: int, folder) -> float:
    """Highest memory of NumPy and Python over all that is done with stored features."""
    features = [
        np.lib.format.open_memmap(folder / f"{rows}-{side}.npy", "w+", "float16", (rows, SIZE))
        for side in range(3)
    ]
    for number, stored in enumerate(features):
        stored[:] = number
    views = same_for_all(rows // 4, 4)
    classifier = teacher_classifier(SIZE, CLASSES)
    taken = np.arange(rows)
    tracemalloc.start()
    keys = [{"rows": rows, "side": side} for side in range(3)]
    targets = cached_targets(features, keys, views, classifier, folder / "cache")
    assert sum(len(block["teacher_logits"]) for block in targets.blocks()) == rows
    targets.batch(first_views(np.arange(64)))
    batches = feature_batches(
        features,
        taken,
        np.zeros(rows, np.int32),
        batch_size=64,
        seed=0,
        first_epoch=0,
        epochs=1,
    )
    for _ in batches.take(5):
        pass
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return peak / 1e6


def test_memory_does_not_grow_with_the_features(tmp_path):
    peak_megabytes(4096, tmp_path)  # what TensorFlow's Python side keeps from its first use
    small, large = (peak_megabytes(rows, tmp_path) for rows in (8192, 65536))
    in_float32 = 65536 * SIZE * 4 / 1e6
    # What may grow: labels, and the order of the epoch (twice while it is drawn).
    order = 65536 * (2 * 3 * 8 + 4) / 1e6
    assert large - small < order + 1.0 < in_float32

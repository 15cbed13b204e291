"""The test images as the student gets them, and the memory that they take."""

import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import tracemalloc

import numpy as np
import pytest

from candle_tf.data.augment.evaluation import render_evaluation
from candle_tf.data.images.store import ImageStore
from candle_tf.data.pipeline import EVALUATION_BATCH
from candle_tf.data.subset import Subset
from candle_tf.stages.evaluate import read_pixels

SIDE = 32


def make_subset(count: int) -> Subset:
    """All images of a store in another order."""
    random = np.random.default_rng(0)
    array = random.integers(0, 256, (count, SIDE, SIDE, 3), np.uint8)
    ids = {f"{row}.png": row for row in range(count)}
    store = ImageStore(array, np.arange(count, dtype=np.int64), ids, "digest")
    return Subset(store, random.permutation(count), np.zeros(count, np.int32))


@pytest.mark.parametrize("count", [1, EVALUATION_BATCH, 2 * EVALUATION_BATCH + 3])
@pytest.mark.parametrize("side", [SIDE, 20])
def test_pixels_are_the_rendered_images_in_order(count, side):
    subset = make_subset(count)
    pixels = read_pixels(subset, side)
    assert pixels.dtype == np.uint8
    rendered = render_evaluation(subset.batch(np.arange(count)), side).numpy()
    np.testing.assert_array_equal(pixels, rendered)


def test_their_reading_takes_little_more_memory_than_they_do():
    subset = make_subset(32 * EVALUATION_BATCH)
    tracemalloc.start()
    pixels = read_pixels(subset, SIDE)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2 * pixels.nbytes

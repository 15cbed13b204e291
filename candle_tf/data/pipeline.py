"""From stored pictures to batches: order, views and the teacher's answers for them.

Everything is a function of (seed, epoch, picture), so a run that begins at epoch 7 sees exactly
what an uninterrupted run sees from epoch 7 on.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from candle_tf.data.answers import TeacherAnswers
from candle_tf.data.fixed_views import FixedViews
from candle_tf.data.pictures import Pictures
from candle_tf.data.views import render_views


@dataclass(frozen=True)
class Examples:
    """Pictures with labels: one part of a split.

    Attributes:
        pictures: the store.
        rows: rows of this part in the store, int64 [N].
        labels: int32 [N].
    """

    pictures: Pictures
    rows: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def batch(self, index: np.ndarray) -> dict[str, np.ndarray]:
        """Decoded pictures, keys and labels of examples `index`, int64 [B]."""
        rows = self.rows[index]
        return {
            "pictures": self.pictures.canvas[rows],
            "keys": self.pictures.keys[rows],
            "labels": self.labels[index],
        }


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Full batches in an epoch; a set smaller than one batch is one batch."""
    return max(1, examples // batch_size)


def epoch_order(seed: int, epoch: int, examples: int) -> np.ndarray:
    """The order of an epoch: a permutation of 0..examples-1, int64, from (seed, epoch)."""
    return np.random.default_rng([seed, epoch]).permutation(examples)


def training_batches(
    examples: Examples,
    *,
    image_size: int,
    augmentation: str,
    batch_size: int,
    seed: int,
    first_epoch: int,
    epochs: int,
    fixed_views: FixedViews | None = None,
    answers: TeacherAnswers | None = None,
) -> tf.data.Dataset:
    """Batches of epochs first_epoch..epochs-1, an incomplete last batch of each left out.

    Args:
        examples: the training part.
        image_size: side of the student's input.
        augmentation: see `views.draw_view`.
        batch_size: pictures in a batch.
        seed: of order and views.
        first_epoch: where to begin.
        epochs: where to stop.
        fixed_views: how many views of each picture are taken in turn; None draws new ones every
            epoch.
        answers: the teacher's, added to each batch.

    Returns:
        Dataset of dictionaries: "inputs" float32 [B, S, S, 3] in 0..255, "labels" int32 [B] and,
        with answers, "teacher_features" float32 [B, d_T] and "teacher_logits" float32 [B, C].
    """
    size = min(batch_size, len(examples))

    def raw_batches() -> Iterator[dict[str, np.ndarray]]:
        for epoch in range(first_epoch, epochs):
            order = epoch_order(seed, epoch, len(examples))
            for step in range(steps_per_epoch(len(examples), batch_size)):
                index = order[step * size : (step + 1) * size]
                fresh = np.full(size, epoch, np.int64)
                numbers = fixed_views.in_turn(index, epoch) if fixed_views else fresh
                batch = {**examples.batch(index), "views": numbers}
                yield {**batch, **(answers.batch(index, numbers) if answers else {})}

    def to_inputs(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        pictures, keys, numbers = (batch.pop(name) for name in ("pictures", "keys", "views"))
        inputs = render_views(pictures, keys, numbers, augmentation, seed, image_size)
        return {"inputs": inputs, **batch}

    dataset = tf.data.Dataset.from_generator(
        raw_batches, output_signature=_signature(examples, size, answers)
    )
    return dataset.map(to_inputs, num_parallel_calls=2, deterministic=True).prefetch(4)


def _signature(
    examples: Examples, size: int, answers: TeacherAnswers | None
) -> dict[str, tf.TensorSpec]:
    canvas = examples.pictures.canvas
    signature = {
        "pictures": tf.TensorSpec([size, *canvas.shape[1:]], tf.uint8),
        "keys": tf.TensorSpec([size], tf.int64),
        "labels": tf.TensorSpec([size], tf.int32),
        "views": tf.TensorSpec([size], tf.int64),
    }
    if answers is not None:
        signature["teacher_features"] = tf.TensorSpec([size, answers.feature_size], tf.float32)
        signature["teacher_logits"] = tf.TensorSpec([size, answers.classes], tf.float32)
    return signature


def evaluation_batches(
    examples: Examples, *, image_size: int, batch_size: int = 128
) -> tf.data.Dataset:
    """Whole pictures in their stored order, the last batch as long as it is.

    Returns:
        Dataset of dictionaries: "inputs" float32 [B, S, S, 3], whole numbers in 0..255, and
        "labels" int32 [B].
    """

    def raw_batches() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(examples), batch_size):
            yield examples.batch(np.arange(start, min(start + batch_size, len(examples))))

    def to_inputs(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        numbers = tf.zeros_like(batch["keys"])
        views = render_views(batch["pictures"], batch["keys"], numbers, "none", 0, image_size)
        # Whole numbers, as in the 8-bit pictures that an exported student is given.
        return {"inputs": tf.round(views), "labels": batch["labels"]}

    side = examples.pictures.canvas.shape[1]
    signature = {
        "pictures": tf.TensorSpec([None, side, side, 3], tf.uint8),
        "keys": tf.TensorSpec([None], tf.int64),
        "labels": tf.TensorSpec([None], tf.int32),
    }
    dataset = tf.data.Dataset.from_generator(raw_batches, output_signature=signature)
    return dataset.map(to_inputs, num_parallel_calls=2, deterministic=True).prefetch(2)

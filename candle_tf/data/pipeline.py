"""From stored images to batches: order, views and the teacher's answers for them.

Everything is a function of (seed, epoch, image), so a run that begins at epoch 7 sees exactly
what an uninterrupted run sees from epoch 7 on.
"""

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.precomputed_views import FixedViews
from candle_tf.data.augment.transform import (
    Transform,
    raw_batch,
    raw_signature,
    render_batch,
    render_evaluation,
)
from candle_tf.data.batches import dataset_from_generator
from candle_tf.data.samplers import epoch_index, occurrences
from candle_tf.data.subset import Subset
from candle_tf.data.targets import Targets

# What a trainer gets of a raw batch, besides the rendered views.
_KEPT = ("labels", "partner_labels", "ratios", "teacher_features", "teacher_logits")

# Views of an epoch's repetitions begin where no epoch's number reaches.
_AGAIN = 2**32


def steps_per_epoch(examples: int, batch_size: int) -> int:
    """Full batches in an epoch; a set smaller than one batch is one batch."""
    return max(1, examples // batch_size)


def training_batches(
    examples: Subset,
    *,
    image_size: int,
    transform: Transform,
    batch_size: int,
    seed: int,
    first_epoch: int,
    epochs: int,
    sampler: str = "instance",
    fixed_views: FixedViews | None = None,
    answers: Targets | None = None,
) -> tf.data.Dataset:
    """Batches of epochs first_epoch..epochs-1, an incomplete last batch of each left out.

    Args:
        examples: the training part.
        image_size: side of the student's input.
        transform: which views are drawn.
        batch_size: images in a batch.
        seed: of order and views.
        first_epoch: where to begin.
        epochs: where to stop.
        sampler: how often each class is shown, see `samplers`; an image that comes up again in an
            epoch is seen in another view.
        fixed_views: how many views of each image are taken in turn; None draws new ones every
            epoch.
        answers: the teacher's, added to each batch.

    Returns:
        Dataset of dictionaries: "inputs" float32 [B, S, S, 3] in 0..255, "labels" int32 [B]; with
        answers, "teacher_features" float32 [B, d_T] and "teacher_logits" float32 [B, C]; with
        mixing, "partner_labels" int32 [B] and "ratios" float32 [B], the part of "labels".
    """
    size = min(batch_size, len(examples))

    def raw_batches() -> Iterator[dict[str, np.ndarray]]:
        for epoch in range(first_epoch, epochs):
            order = epoch_index(sampler, examples.labels, seed=seed, epoch=epoch, epochs=epochs)
            again = occurrences(order)
            for step in range(steps_per_epoch(len(examples), batch_size)):
                places = slice(step * size, (step + 1) * size)
                index, turn = order[places], epoch + again[places]
                fresh = epoch + _AGAIN * again[places]
                views = fixed_views.in_turn(index, turn) if fixed_views else fresh
                batch = raw_batch(examples, index, views, transform, seed)
                yield {**batch, **(answers.batch(index, views) if answers else {})}

    def to_inputs(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs = render_batch(batch, transform, seed, image_size)
        return {"inputs": inputs, **{name: batch[name] for name in _KEPT if name in batch}}

    signature = {**raw_signature(examples, transform, size), **_of_answers(answers, size)}
    dataset = dataset_from_generator(raw_batches, signature)
    return dataset.map(to_inputs, num_parallel_calls=2, deterministic=True).prefetch(4)


def _of_answers(answers: Targets | None, size: int) -> dict[str, tf.TensorSpec]:
    if answers is None:
        return {}
    return {
        "teacher_features": tf.TensorSpec([size, answers.feature_size], tf.float32),
        "teacher_logits": tf.TensorSpec([size, answers.classes], tf.float32),
    }


def evaluation_batches(
    examples: Subset, *, image_size: int, batch_size: int = 128
) -> tf.data.Dataset:
    """Whole images (with --resize=crop their centres) in order, the last batch as long as it is.

    Returns:
        Dataset of dictionaries: "inputs" float32 [B, S, S, 3], whole numbers in 0..255, and
        "labels" int32 [B].
    """

    def raw_batches() -> Iterator[dict[str, np.ndarray]]:
        for start in range(0, len(examples), batch_size):
            yield examples.batch(np.arange(start, min(start + batch_size, len(examples))))

    def to_inputs(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"inputs": render_evaluation(batch, image_size), "labels": batch["labels"]}

    signature = raw_signature(examples, Transform(), None)
    del signature["views"]
    dataset = dataset_from_generator(raw_batches, signature)
    return dataset.map(to_inputs, num_parallel_calls=2, deterministic=True).prefetch(2)

"""From stored images to batches: order, views and the teacher's outputs for them.

Everything is a function of (seed, epoch, image), so a run that begins at epoch 7 sees exactly
what an uninterrupted run sees from epoch 7 on.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.augmentation import Augmentation, subset_signature
from candle_tf.data.augment.evaluation import render_evaluation
from candle_tf.data.augment.precomputed_views import PrecomputedViews
from candle_tf.data.augment.view_kinds import unmixed_numbers
from candle_tf.data.augment.views import Views
from candle_tf.data.batches import dataset_from_generator
from candle_tf.data.epoch_steps import steps_per_epoch
from candle_tf.data.samplers import epoch_index, epoch_order, occurrences
from candle_tf.data.subset import Subset
from candle_tf.data.targets import MapTargets, Targets
from candle_tf.distribute import ALONE, BatchShare

# What a trainer gets of a drawn batch, besides the rendered views.
_KEPT = (
    "labels",
    "partner_labels",
    "ratios",
    "teacher_features",
    "teacher_logits",
    "teacher_maps",
)

# Images in a batch of `evaluation_batches`.
EVALUATION_BATCH = 128

# Offset of the view numbers of images that an epoch repeats: above the number of any epoch.
REPEATED = 2**32
# Offset of second views of the same images: also above any epoch, and below what is repeated. Where
# numbers decide the kind of a view (`view_kinds`), the second is of the next kind.
_SECOND = 2**31 + 1
# Before the names of what is drawn for second views.
_OF_SECOND = "second_"


def training_batches(
    subset: Subset,
    *,
    image_size: int,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    first_epoch: int,
    epochs: int,
    sampler: str = "instance",
    sampler_start: float = 0.5,
    unmixed_from: float = 1.0,
    precomputed: PrecomputedViews | None = None,
    targets: Targets | None = None,
    second_views: bool = False,
    share: BatchShare = ALONE,
) -> tf.data.Dataset:
    """Batches of epochs first_epoch..epochs-1, an incomplete last batch of each left out.

    Args:
        subset: the training images.
        image_size: side of the student's input.
        augmentation: of the views.
        batch_size: images in a batch.
        seed: of the order.
        first_epoch: the first epoch, from 0.
        epochs: the number after the last epoch.
        sampler: how often each class is shown, see `samplers`; an image that comes up again in an
            epoch is seen in another view.
        sampler_start: of deferred samplers, see `samplers.sampler_at`.
        unmixed_from: fraction of the epochs after which only unmixed views are shown, where half of
            the views are mixed.
        precomputed: the views of each image that are taken in turn; None draws new ones in every
            epoch.
        targets: the teacher's outputs, added to each batch.
        second_views: adds another view of each image; of precomputed ones, the next.
        share: the replicas whose shares of each batch are given, one after the other; nothing is
            rendered for the others. The images of all shares together are those of the batch.

    Returns:
        Dataset of dictionaries: "inputs" float32 [B, S, S, 3] in 0..255, "labels" int32 [B]; with
        targets, "teacher_features" float32 [B, d_T] and "teacher_logits" float32 [B, C], and of
        `MapTargets` "teacher_maps" float32 [B, P, D]; with mixing, "partner_labels" int32 [B] and
        "ratios" float32 [B], the share of "labels"; with second views, "second_inputs" float32
        [B, S, S, 3].
    """
    size = min(batch_size, len(subset))
    shares = share.slices(size)
    # Of each view of an image, how far its number is from that of the epoch.
    offsets = (0, 1 if precomputed else _SECOND)[: 2 if second_views else 1]

    def views_of_steps() -> Iterator[tuple[Views, ...]]:
        for epoch in range(first_epoch, epochs):
            order = epoch_index(
                sampler,
                subset.labels,
                seed=seed,
                epoch=epoch,
                epochs=epochs,
                start=sampler_start,
            )
            repeats = occurrences(order)
            unmixed = epoch >= unmixed_from * epochs
            for step in range(steps_per_epoch(len(subset), batch_size)):
                of_step = slice(step * size, (step + 1) * size)
                for places in shares:
                    images, seen = order[of_step][places], repeats[of_step][places]
                    yield tuple(
                        _views(images, epoch + offset, seen, augmentation, precomputed, unmixed)
                        for offset in offsets
                    )

    return _render_batches(
        subset, views_of_steps, size // share.count, image_size, augmentation, targets, second_views
    )


def unlabelled_batches(
    subset: Subset,
    *,
    image_size: int,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    first_step: int,
    steps: int,
    unmixed_from: float = 1.0,
    precomputed: PrecomputedViews | None = None,
    targets: Targets | None = None,
    share: BatchShare = ALONE,
) -> tf.data.Dataset:
    """Batches of steps first_step..steps-1 of images whose labels mean nothing.

    Their epochs are their own: they follow each other whatever the epochs of the images with labels
    are. All batches have `batch_size` images, or all images where there are fewer.

    Args:
        subset, image_size, augmentation, seed, precomputed, targets, share: as in
            `training_batches`.
        batch_size: images without labels in a batch.
        first_step: the first step, from 0.
        steps: the number after the last step.
        unmixed_from: fraction of the steps, as in `training_batches`.

    Returns:
        Dataset of the same dictionaries as those of `training_batches`.
    """
    size = min(batch_size, len(subset))
    shares = share.slices(size)
    in_epoch = steps_per_epoch(len(subset), batch_size)

    def views_of_steps() -> Iterator[tuple[Views, ...]]:
        order, order_of = np.empty(0, np.int64), -1
        for step in range(first_step, steps):
            epoch, place = divmod(step, in_epoch)
            if epoch != order_of:
                order, order_of = epoch_order(seed, epoch, len(subset)), epoch
            images = order[place * size : (place + 1) * size]
            unmixed = step >= unmixed_from * steps
            for places in shares:
                chosen = images[places]
                once = np.zeros_like(chosen)
                yield (_views(chosen, epoch, once, augmentation, precomputed, unmixed),)

    return _render_batches(
        subset, views_of_steps, size // share.count, image_size, augmentation, targets
    )


def join_batches(labelled: tf.data.Dataset, unlabelled: tf.data.Dataset) -> tf.data.Dataset:
    """Batches of both: B images with labels, and after them U without.

    Args:
        labelled: of `training_batches`.
        unlabelled: of `unlabelled_batches`, with the same settings.

    Returns:
        Dataset of their dictionaries, with B + U rows, and "labelled" bool [B + U].
    """

    def join(first: dict[str, tf.Tensor], second: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        joined = {name: tf.concat([first[name], second[name]], axis=0) for name in first}
        ones = tf.ones_like(first["labels"], tf.bool)
        zeros = tf.zeros_like(second["labels"], tf.bool)
        return {**joined, "labelled": tf.concat([ones, zeros], axis=0)}

    return tf.data.Dataset.zip((labelled, unlabelled)).map(join).prefetch(4)


def _render_batches(
    subset: Subset,
    views_of_steps: Callable[[], Iterator[tuple[Views, ...]]],
    size: int,
    image_size: int,
    augmentation: Augmentation,
    targets: Targets | None,
    second_views: bool = False,
) -> tf.data.Dataset:
    """Batches of `size` views, with the teacher's outputs of them; `second_views`: `views_of_steps`
    gives two views of the same images."""

    def draw_batches() -> Iterator[dict[str, np.ndarray]]:
        for views, *second in views_of_steps():
            batch = augmentation.draw(subset, views)
            for others in second:
                batch |= _name_second(augmentation.draw(subset, others))
            yield {**batch, **(targets.batch(views) if targets else {})}

    def to_inputs(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        inputs = {"inputs": augmentation.render(batch, image_size)}
        if second_views:
            second = {
                name.removeprefix(_OF_SECOND): value
                for name, value in batch.items()
                if name.startswith(_OF_SECOND)
            }
            inputs["second_inputs"] = augmentation.render(second, image_size)
        return {**inputs, **{name: batch[name] for name in _KEPT if name in batch}}

    signature = augmentation.signature(subset, size)
    if second_views:
        signature |= _name_second(signature)
    signature |= _targets_signature(targets, size)
    dataset = dataset_from_generator(draw_batches, signature)
    return dataset.map(to_inputs, num_parallel_calls=2, deterministic=True).prefetch(4)


def _name_second(values: Mapping[str, Any]) -> dict[str, Any]:
    return {f"{_OF_SECOND}{name}": value for name, value in values.items()}


def _views(
    images: np.ndarray,
    epoch: int,
    repeats: np.ndarray,
    augmentation: Augmentation,
    precomputed: PrecomputedViews | None,
    unmixed: bool,
) -> Views:
    """The views of images int64 [B] in an epoch.

    Args:
        images: of the views.
        epoch: from 0.
        repeats: how often the epoch had each image before, int64 [B].
        augmentation, precomputed: as of `training_batches`.
        unmixed: takes unmixed views alone.
    """
    number = augmentation.numbers_at(images, epoch)
    if precomputed:
        return precomputed.at_epoch(images, number + repeats, unmixed)
    numbers = number + REPEATED * repeats
    return Views(images, unmixed_numbers(numbers) if unmixed else numbers)


def _targets_signature(targets: Targets | None, size: int) -> dict[str, tf.TensorSpec]:
    if targets is None:
        return {}
    signature = {
        "teacher_features": tf.TensorSpec([size, targets.feature_size], tf.float32),
        "teacher_logits": tf.TensorSpec([size, targets.classes], tf.float32),
    }
    if isinstance(targets, MapTargets):
        signature["teacher_maps"] = tf.TensorSpec([size, *targets.map_shape], tf.float32)
    return signature


def evaluation_batches(
    subset: Subset,
    *,
    image_size: int,
    batch_size: int = EVALUATION_BATCH,
    share: BatchShare = ALONE,
) -> tf.data.Dataset:
    """Whole images (with --resize=crop their centres) in order, the last batch as long as it is.

    With several replicas all batches are about as long, and each replica has a share of each.

    Returns:
        Dataset of dictionaries: "inputs" float32 [B, S, S, 3], whole numbers in 0..255, and
        "labels" int32 [B].
    """

    def read_batches() -> Iterator[dict[str, np.ndarray]]:
        for places in share.parts(len(subset), batch_size):
            yield subset.batch(np.arange(places.start, places.stop))

    def to_inputs(batch: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        return {"inputs": render_evaluation(batch, image_size), "labels": batch["labels"]}

    dataset = dataset_from_generator(read_batches, subset_signature(subset, None))
    return dataset.map(to_inputs, num_parallel_calls=2, deterministic=True).prefetch(2)

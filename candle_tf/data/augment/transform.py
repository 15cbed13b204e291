"""All that is done to an image before a network sees it, in two steps that anyone can repeat.

    transform = Transform("random_resized_crop_flip", color_jitter=0.4, mix="cutmix")
    raw = raw_batch(examples, index, views, transform, seed=0)          # NumPy, from the store
    student_sees = render_batch(raw, transform, seed=0, size=64)
    teacher_sees = render_batch(raw, transform, seed=0, size=160)       # the very same views

`raw_batch` takes images from the store (for mixing, the second ones too) and draws what is drawn
in NumPy; `render_batch` is TensorFlow and can run in a graph. Both depend on seed, images and
view numbers alone, never on what else is in the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.color_jitter import draw_factors, jitter
from candle_tf.data.augment.crops import render_views
from candle_tf.data.augment.mix import draw_mixtures, mix_pixels
from candle_tf.data.augment.randaugment import draw_operations, randaugment
from candle_tf.data.images.store import image_aspect, stretch
from candle_tf.data.subset import Subset

# A part of the key of every cache of teacher features. Count it up with every change of what a view
# looks like, in this package or in `data.images`: older caches are then computed again.
TRANSFORM_VERSION = 1

# Names in a raw batch that say something of the second images begin with this.
_PARTNER = "partner_"


@dataclass(frozen=True)
class Transform:
    """Which views are drawn. JSON-ready by `dataclasses.asdict`: a part of every cache's key.

    Attributes:
        augmentation: crop and flip, see `views.draw_view`.
        color_jitter: strength of brightness, contrast and saturation, see `color`; 0 for none.
        randaugment_magnitude: strength of RandAugment's operations, 0 to 10; 0 for none.
        randaugment_layers: how many of them, one after the other.
        mix: "none", or how a second image is mixed in, see `mixing`.
        mix_alpha: of Beta(alpha, alpha), which the mixing ratio is drawn from.
    """

    augmentation: str = "none"
    color_jitter: float = 0.0
    randaugment_magnitude: float = 0.0
    randaugment_layers: int = 2
    mix: str = "none"
    mix_alpha: float = 1.0


WHOLE = Transform()


def raw_batch(
    examples: Subset, index: np.ndarray, views: np.ndarray, transform: Transform, seed: int
) -> dict[str, np.ndarray]:
    """All that rendering some views takes.

    Args:
        examples: the images; partners are drawn from all of them.
        index: int64 [B], which examples.
        views: int64 [B], which view of each.
        transform: what is drawn.
        seed: of the views.

    Returns:
        "images" uint8 [B, side, side, 3], "keys" int64 [B], "labels" int32 [B], "views" int64
        [B]; "aspects" float32 [B] with --resize=crop; "factors" float32 [B, 3] with colour jitter;
        "operations" int64 [B, L] and "signs" float32 [B, L] with RandAugment.
        With mixing the same for the second images, their names beginning with "partner_", and
        "ratios" float32 [B], the first image's part, and "boxes" float32 [B, 4].
    """
    batch = _unmixed(examples, index, views, transform, seed)
    if transform.mix == "none":
        return batch
    mixtures = draw_mixtures(
        transform.mix, transform.mix_alpha, seed, batch["keys"], views, len(examples)
    )
    second = _unmixed(examples, mixtures.partners, views, transform, seed)
    partners = {_PARTNER + name: values for name, values in second.items()}
    return {**batch, **partners, "ratios": mixtures.ratios, "boxes": mixtures.boxes}


def _unmixed(
    examples: Subset, index: np.ndarray, views: np.ndarray, transform: Transform, seed: int
) -> dict[str, np.ndarray]:
    batch = {**examples.batch(index), "views": views}
    each = [(int(key), int(view)) for key, view in zip(batch["keys"], views, strict=True)]
    if transform.color_jitter:
        factors = [draw_factors(transform.color_jitter, seed, *one) for one in each]
        batch["factors"] = np.stack(factors)
    if transform.randaugment_magnitude:
        drawn = [draw_operations(transform.randaugment_layers, seed, *one) for one in each]
        operations, signs = zip(*drawn, strict=True)
        batch |= {"operations": np.stack(operations), "signs": np.stack(signs)}
    return batch


def raw_signature(
    examples: Subset, transform: Transform, size: int | None
) -> dict[str, tf.TensorSpec]:
    """Shapes and types of a raw batch, for `tf.data.Dataset.from_generator`.

    Args:
        examples, transform: as in `raw_batch`.
        size: B, or None where it varies.
    """
    signature = {
        "images": tf.TensorSpec([size, *examples.images.array.shape[1:]], tf.uint8),
        "keys": tf.TensorSpec([size], tf.int64),
        "labels": tf.TensorSpec([size], tf.int32),
        "views": tf.TensorSpec([size], tf.int64),
    }
    if examples.images.original_aspect:
        signature["aspects"] = tf.TensorSpec([size], tf.float32)
    if transform.color_jitter:
        signature["factors"] = tf.TensorSpec([size, 3], tf.float32)
    if transform.randaugment_magnitude:
        drawn = [size, transform.randaugment_layers]
        signature["operations"] = tf.TensorSpec(drawn, tf.int64)
        signature["signs"] = tf.TensorSpec(drawn, tf.float32)
    if transform.mix != "none":
        signature |= {_PARTNER + name: spec for name, spec in signature.items()}
        signature["ratios"] = tf.TensorSpec([size], tf.float32)
        signature["boxes"] = tf.TensorSpec([size, 4], tf.float32)
    return signature


def render_batch(
    batch: Mapping[str, tf.Tensor],
    transform: Transform,
    seed: int,
    size: int,
    mirrored: bool = False,
) -> tf.Tensor:
    """Renders a raw batch at any size; the same batch is the same views at each.

    Args:
        batch: as `raw_batch` gives it, NumPy or TensorFlow.
        transform, seed: the ones the batch was made with.
        size: side of the result in pixels.
        mirrored: mirror every view once more, left and right.

    Returns:
        float32 [B, size, size, 3] in 0..255.
    """
    pixels = _rendered(batch, transform, seed, size)
    if transform.mix != "none":
        second = {
            name.removeprefix(_PARTNER): values
            for name, values in batch.items()
            if name.startswith(_PARTNER)
        }
        pixels = mix_pixels(
            transform.mix,
            pixels,
            _rendered(second, transform, seed, size),
            batch["ratios"],
            batch["boxes"],
        )
    return tf.reverse(pixels, axis=[2]) if mirrored else pixels


def _rendered(
    batch: Mapping[str, tf.Tensor], transform: Transform, seed: int, size: int
) -> tf.Tensor:
    pixels = render_views(
        batch["images"],
        batch["keys"],
        batch["views"],
        transform.augmentation,
        seed,
        size,
        aspects=batch.get("aspects"),
    )
    if transform.color_jitter:
        pixels = jitter(pixels, batch["factors"])
    if transform.randaugment_magnitude:
        operations, signs = batch["operations"], batch["signs"]
        pixels = randaugment(pixels, operations, signs, transform.randaugment_magnitude)
    return pixels


def render_evaluation(batch: Mapping[str, tf.Tensor], size: int) -> tf.Tensor:
    """What is measured: the whole image, or with --resize=crop its centre.

    Args:
        batch: "images", and "aspects" with --resize=crop; see `Subset.batch`.
        size: side of the result in pixels.

    Returns:
        float32 [B, size, size, 3], whole numbers in 0..255, as in the 8-bit images that an
        exported student is given.
    """
    zeros = tf.zeros(tf.shape(batch["images"])[:1], tf.int64)
    return tf.round(
        render_views(batch["images"], zeros, zeros, "none", 0, size, aspects=batch.get("aspects"))
    )


def student_pixels(image: np.ndarray, *, resize: str, side: int, image_size: int) -> np.ndarray:
    """From a decoded image to what an exported student is given: the whole of its preprocessing.

    Args:
        image: uint8 [H, W, 3] RGB, upright (`decode.decode_image`).
        resize: the run's --resize.
        side: of the run's store, `images.store_side`.
        image_size: the run's --image_size.

    Returns:
        uint8 [image_size, image_size, 3]; bit for bit what `evaluate` measured the student on.
    """
    batch = {"images": tf.constant(stretch(image, side)[np.newaxis])}
    if resize == "crop":
        batch["aspects"] = tf.constant([image_aspect(image)], tf.float32)
    return render_evaluation(batch, image_size)[0].numpy().astype(np.uint8)

"""Random views of images, sampled statelessly: the same seed, image and view number always give
the same crop and flip, whatever was drawn before.

Stored images are stretched to a square. With --resize=crop a view undoes that: boxes have the
original aspect (width to height), which is stored beside the image.

    box, flip = sample_view("pad_crop_flip", seed=0, key=key, view=3)
    student_inputs = render(image, box, flip, size=64)
    teacher_inputs = render(image, box, flip, size=160)      # the very same view
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.operation import Drawing, Operation, Rendering
from candle_tf.data.augment.random_numbers import SEED_MULTIPLIER
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.images.store import CENTRE_CROP

# The kind whose area --crop_area is of.
RANDOM_RESIZED = "random_resized_crop_flip"
PAD = 1 / 8  # 4 of 32 pixels, as is usual since ResNet on CIFAR (He et al. 2016)
# The least part of the area that random resized crops cover where nothing else is asked for. It was
# no setting once: keys of caches with it do not name it, and so it may not change.
LEAST_AREA = 0.35
CROP_ASPECT = (3 / 4, 4 / 3)
# Of the random resized crops that alternate with whole, shifted images.
ALTERNATING_AREA = 0.5


@dataclass(frozen=True)
class Crop(Operation):
    """Always the first operation: cuts a view out of the stored image, resizes and flips it.

    The box is drawn in the graph, from the image's key and the view's number.

    Attributes:
        kind: a name of `sample_view`.
        least_area: as in `sample_view`.
    """

    kind: str
    least_area: float = LEAST_AREA

    @classmethod
    def from_settings(cls, settings: AugmentSettings) -> "Crop":
        kind = settings.augmentation
        return cls(kind, settings.crop_area) if kind == RANDOM_RESIZED else cls(kind)

    def key(self) -> dict[str, Any]:
        key = super().key()
        if self.least_area == LEAST_AREA:
            del key["least_area"]
        return key

    @property
    def flips(self) -> bool:
        return self.kind.endswith("_flip")

    @property
    def alternates(self) -> bool:
        return self.kind.startswith("alternating_")

    def draw(self, drawing: Drawing) -> dict[str, np.ndarray]:
        return {"views": drawing.views.numbers}

    def signature(self, before: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
        return {"views": tf.TensorSpec(before["keys"].shape, tf.int64)}

    def apply(self, pixels: tf.Tensor, rendering: Rendering) -> tf.Tensor:
        batch = rendering.batch
        return render_views(
            pixels,
            batch["keys"],
            batch["views"],
            self.kind,
            rendering.seed,
            rendering.size,
            aspects=batch.get("aspects"),
            least_area=self.least_area,
        )


def whole_box() -> tf.Tensor:
    """The box that is the whole image: [top, left, bottom, right] = [0, 0, 1, 1]."""
    return tf.constant([0.0, 0.0, 1.0, 1.0])


def centre_box(aspect: tf.Tensor) -> tf.Tensor:
    """The central square of an image whose side is 7/8 of the shorter side, float32 [4].

    Args:
        aspect: float32 scalar, width to height of the original image.
    """
    sides = CENTRE_CROP * _shorter_side(aspect)
    return tf.concat([0.5 - sides / 2, 0.5 + sides / 2], axis=0)


def sample_view(
    augmentation: str,
    seed: int | tf.Tensor,
    key: tf.Tensor,
    view: int | tf.Tensor,
    aspect: tf.Tensor | None = None,
    least_area: float = LEAST_AREA,
) -> tuple[tf.Tensor, tf.Tensor]:
    """Samples the box and the flip of a view.

    Args:
        augmentation: "none" (whole image), "pad_crop" (shifted by up to 1/8 of its side, black
            beyond the border), "pad_crop_flip" (and mirrored half of the time),
            "random_resized_crop_flip" (`least_area` to all of the area, aspect 3/4 to 4/3, mirrored
            half of the time) or "alternating_crop_flip" (even view numbers as pad_crop_flip, odd
            ones as random_resized_crop_flip with 50 % to all of the area).
        seed: the run's seed.
        key: int64 scalar, the image's key.
        view: number of the view, from 0.
        aspect: float32 scalar, width to height of the original image, for views that are square in
            it: "none" is then its `centre_box`; pad_crop takes a square of its shorter side from
            anywhere in it, padded by 1/8; areas and aspects of random_resized_crop are true ones.
            None takes the square it was stretched to for the image.
        least_area: of random_resized_crop_flip alone, in (0, 1].

    Returns:
        box: float32 [4], top, left, bottom, right as fractions of the image's sides; may reach
            beyond the image.
        flip: bool scalar, whether to mirror left and right.
    """
    # One Philox draw per view: the image's key and the view number are its two seeds.
    mixed = tf.bitwise.bitwise_xor(
        tf.cast(key, tf.int64), tf.cast(seed, tf.int64) * tf.constant(SEED_MULTIPLIER, tf.int64)
    )
    numbers = tf.random.stateless_uniform(
        [5], seed=tf.stack([mixed, tf.cast(view, tf.int64)]), alg="philox"
    )
    flip = numbers[4] < 0.5
    if augmentation == "none":
        return whole_box() if aspect is None else centre_box(aspect), tf.constant(False)
    if augmentation == "pad_crop":
        return _shift_box(numbers, aspect), tf.constant(False)
    if augmentation == "pad_crop_flip":
        return _shift_box(numbers, aspect), flip
    if augmentation == RANDOM_RESIZED:
        return _resized_crop_box(numbers, aspect, least_area), flip
    if augmentation == "alternating_crop_flip":
        even = tf.cast(view, tf.int64) % 2 == 0
        crop = _resized_crop_box(numbers, aspect, ALTERNATING_AREA)
        return tf.where(even, _shift_box(numbers, aspect), crop), flip
    raise ValueError(f"unknown augmentation {augmentation!r}")


def _shorter_side(aspect: tf.Tensor) -> tf.Tensor:
    """Height and width of a square of the shorter side, as fractions of both sides, float32 [2]."""
    return tf.stack([tf.minimum(1.0, aspect), tf.minimum(1.0, 1.0 / aspect)])


def _shift_box(numbers: tf.Tensor, aspect: tf.Tensor | None) -> tf.Tensor:
    if aspect is None:
        offset = PAD * (2.0 * numbers[:2] - 1.0)
        return tf.concat([offset, offset + 1.0], axis=0)
    sides = _shorter_side(aspect)
    offset = (1.0 - sides + 2.0 * PAD * sides) * numbers[:2] - PAD * sides
    return tf.concat([offset, offset + sides], axis=0)


def _resized_crop_box(numbers: tf.Tensor, aspect: tf.Tensor | None, least_area: float) -> tf.Tensor:
    area = least_area + numbers[0] * (1.0 - least_area)
    low, high = tf.math.log(CROP_ASPECT[0]), tf.math.log(CROP_ASPECT[1])
    root_aspect = tf.exp(0.5 * (low + numbers[1] * (high - low)))
    if aspect is None:
        height = tf.minimum(tf.sqrt(area) / root_aspect, 1.0)
        width = tf.minimum(tf.sqrt(area) * root_aspect, 1.0)
    else:
        height = tf.sqrt(area * aspect) / root_aspect
        width = tf.sqrt(area / aspect) * root_aspect
        # What does not fit is made smaller as a whole, as its aspect is to stay.
        fit = tf.minimum(1.0, 1.0 / tf.maximum(height, width))
        height, width = height * fit, width * fit
    top, left = numbers[2] * (1.0 - height), numbers[3] * (1.0 - width)
    return tf.stack([top, left, top + height, left + width])


def render(image: tf.Tensor, box: tf.Tensor, flip: tf.Tensor, size: int) -> tf.Tensor:
    """Crops an image to a box and resizes it, antialiased.

    Args:
        image: uint8 or float [H, W, 3].
        box: float32 [4] as `sample_view` gives it; what lies beyond the image is black.
        flip: bool scalar.
        size: side of the result in pixels.

    Returns:
        float32 [size, size, 3] in 0..255.
    """
    cut = _cut(image[tf.newaxis], box, size)[0]
    return tf.where(flip, tf.reverse(cut, axis=[1]), cut)


def _cut(batch: tf.Tensor, box: tf.Tensor, size: int) -> tf.Tensor:
    """The same box of each image of a batch [B, H, W, 3]."""
    sides = tf.cast(tf.shape(batch)[1:3], tf.float32)
    scale = size / ((box[2:] - box[:2]) * sides)
    return tf.raw_ops.ScaleAndTranslate(
        images=batch,
        size=[size, size],
        scale=scale,
        translation=-box[:2] * sides * scale,
        kernel_type="triangle",
        antialias=True,
    )


def render_views(
    images: tf.Tensor,
    keys: tf.Tensor,
    numbers: tf.Tensor,
    augmentation: str,
    seed: int,
    size: int,
    aspects: tf.Tensor | None = None,
    least_area: float = LEAST_AREA,
) -> tf.Tensor:
    """Draws and renders one view of each image.

    Args:
        images: uint8 [B, H, W, 3].
        keys: int64 [B].
        numbers: int64 [B], which view of each.
        augmentation, seed: as in `sample_view`.
        size: side of the result in pixels.
        aspects: float32 [B], width to height of the original images; None: see `sample_view`.
        least_area: as in `sample_view`.

    Returns:
        float32 [B, size, size, 3] in 0..255.
    """

    if augmentation == "none" and aspects is None:
        return _cut(images, whole_box(), size)

    def one(item: tuple[tf.Tensor, ...]) -> tf.Tensor:
        image, key, number, *rest = item
        aspect = rest[0] if rest else None
        box, flip = sample_view(augmentation, seed, key, number, aspect, least_area)
        return render(image, box, flip, size)

    signature = tf.TensorSpec([size, size, 3], tf.float32)
    each = (images, keys, numbers) if aspects is None else (images, keys, numbers, aspects)
    return tf.map_fn(one, each, fn_output_signature=signature)

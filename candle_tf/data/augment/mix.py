"""Mixup and cutmix: a view into which the view of a second image is mixed.

    mixtures = draw_mixtures("cutmix", 1.0, seed=0, keys=keys, views=views, count=12000)
    mixed = mix_pixels("cutmix", first, second, mixtures.ratios, mixtures.boxes)
    loss = ratios * loss(labels) + (1 - ratios) * loss(labels of mixtures.partners)

The partner, the ratio and the box come from the first image's key and view number, so teacher and
student see the same mixture, whatever else is in their batches. (KerasCV's MixUp and CutMix pair a
batch with its own random permutation: there the view of an image depends on its batch.)
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.operation import Drawing, Operation, Rendering
from candle_tf.data.augment.random_numbers import MIXING, view_generator
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.augment.view_kinds import is_unmixed
from candle_tf.data.augment.views import Views

# Names in a batch that are of the second images begin with this.
_PARTNER = "partner_"

# Of how many ratios, and centres of each, `mean_partner_share` is the mean.
_RATIOS = 2048
_CENTRES = 512

# Boxes lie on a grid of 1/32 of the side, so at every size that 32 divides they cover exactly the
# same share of the image, and the ratio is exact.
GRID = 32


@dataclass(frozen=True)
class Mix(Operation):
    """The view of the same number of a second image, mixed in after the operations before.

    Attributes:
        kind: "mixup" or "cutmix".
        alpha: above 0; ratios are drawn from Beta(alpha, alpha).
    """

    # The value of --mix_views that it is for.
    views: ClassVar[str] = "all"

    kind: str
    alpha: float

    @classmethod
    def from_settings(cls, settings: AugmentSettings) -> "Mix | None":
        if settings.mix == "none" or settings.mix_views != cls.views:
            return None
        return cls(settings.mix, settings.mix_alpha)

    def is_mixed(self, numbers: np.ndarray) -> np.ndarray:
        return np.ones(len(numbers), bool)

    @property
    def partner_share(self) -> float:
        return mean_partner_share(self.kind, self.alpha)

    def draw(self, drawing: Drawing) -> dict[str, np.ndarray]:
        """ "ratios" float32 [B], "boxes" float32 [B, 4], and the second images' "partner_..."."""
        subset, numbers = drawing.subset, drawing.views.numbers
        mixtures = draw_mixtures(
            self.kind, self.alpha, drawing.seed, drawing.keys, numbers, len(subset)
        )
        second = drawing.draw_before(subset, Views(mixtures.partners, numbers))
        partners = {_PARTNER + name: values for name, values in second.items()}
        return {**partners, "ratios": mixtures.ratios, "boxes": mixtures.boxes}

    def signature(self, before: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
        size = before["keys"].shape[0]
        return {
            **{_PARTNER + name: spec for name, spec in before.items()},
            "ratios": tf.TensorSpec([size], tf.float32),
            "boxes": tf.TensorSpec([size, 4], tf.float32),
        }

    def apply(self, pixels: tf.Tensor, rendering: Rendering) -> tf.Tensor:
        batch = rendering.batch
        # A ratio of 1 leaves the first image as it is: its partner is not rendered.
        places = tf.where(batch["ratios"] < 1)[:, 0]
        second = {
            name.removeprefix(_PARTNER): tf.gather(values, places)
            for name, values in batch.items()
            if name.startswith(_PARTNER)
        }
        partners = rendering.render_before(second)
        ratios, boxes = tf.gather(batch["ratios"], places), tf.gather(batch["boxes"], places)
        first = tf.gather(pixels, places)
        mixed = mix_pixels(self.kind, first, partners, ratios, boxes)
        return tf.tensor_scatter_nd_update(pixels, places[:, tf.newaxis], mixed)


@dataclass(frozen=True)
class HalfMix(Mix):
    """The same, of half of the views (`view_kinds`); the others keep a ratio of 1."""

    views: ClassVar[str] = "half"

    def is_mixed(self, numbers: np.ndarray) -> np.ndarray:
        return ~is_unmixed(numbers)

    @property
    def alternates(self) -> bool:
        return True

    def draw(self, drawing: Drawing) -> dict[str, np.ndarray]:
        drawn = super().draw(drawing)
        unmixed = is_unmixed(drawing.views.numbers)
        ratios = np.where(unmixed, np.float32(1), drawn["ratios"])
        boxes = np.where(unmixed[:, np.newaxis], np.float32(0), drawn["boxes"])
        return {**drawn, "ratios": ratios, "boxes": boxes}


@dataclass(frozen=True)
class Mixtures:
    """What is mixed into B views.

    Attributes:
        partners: int64 [B], index of the second image among the training images.
        ratios: float32 [B] in [0, 1], the first image's share of the mixture and of the label.
        boxes: float32 [B, 4], top, left, bottom, right of what cutmix replaces, as fractions.
    """

    partners: np.ndarray
    ratios: np.ndarray
    boxes: np.ndarray


def draw_mixtures(
    mix: str, alpha: float, seed: int, keys: np.ndarray, views: np.ndarray, count: int
) -> Mixtures:
    """Draws partners, each training image with the same chance, and ratios ~ Beta(alpha, alpha).

    Args:
        mix: "mixup" (Zhang et al., ICLR 2018: ratio x_1 + (1 - ratio) x_2) or "cutmix" (Yun et al.,
            ICCV 2019: a box of x_2 in x_1; its centre anywhere, its sides sqrt(1 - ratio) of the
            image's; what is left of it within the image gives the ratio that counts).
        alpha: above 0.
        seed: the run's seed.
        keys: int64 [B], of the first images.
        views: int64 [B], their view numbers; the partner is shown in its view of this number.
        count: training images.
    """
    drawn = [
        _draw(mix, alpha, view_generator(seed, int(key), int(view), MIXING), count)
        for key, view in zip(keys, views, strict=True)
    ]
    partners, ratios, boxes = zip(*drawn, strict=True)
    return Mixtures(
        np.array(partners, np.int64), np.array(ratios, np.float32), np.array(boxes, np.float32)
    )


def _draw(
    mix: str, alpha: float, rng: np.random.Generator, count: int
) -> tuple[int, float, np.ndarray]:
    partner = int(rng.random() * count)
    centre = rng.random(2)
    ratio = rng.beta(alpha, alpha)
    if mix == "mixup":
        return partner, ratio, np.zeros(4)
    if mix == "cutmix":
        box = np.concatenate(_box_ends(centre, ratio))
        return partner, 1.0 - (box[2] - box[0]) * (box[3] - box[1]), box
    raise ValueError(f"unknown mix {mix!r}")


def _box_ends(centre: np.ndarray, ratio: float | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Where boxes of these centres begin and end along one side of the image."""
    half = np.sqrt(1.0 - ratio) / 2
    low, high = (np.clip(end, 0.0, 1.0) for end in (centre - half, centre + half))
    return np.rint(GRID * low) / GRID, np.rint(GRID * high) / GRID


def mean_partner_share(mix: str, alpha: float) -> float:
    """The mean of 1 - ratio over what `draw_mixtures` draws: the second images' part of the labels.

    1/2 for mixup, as Beta(alpha, alpha) is symmetric. For cutmix it is the mean area of a box, less
    than 1/2 as boxes end at the image's edges: to about 0.001.

    Args:
        mix, alpha: as of `draw_mixtures`.
    """
    if mix == "mixup":
        return 0.5
    if mix != "cutmix":
        raise ValueError(f"unknown mix {mix!r}")
    drawn = np.random.default_rng(0).beta(alpha, alpha, _RATIOS)
    ratios = np.concatenate([drawn, 1.0 - drawn])[:, np.newaxis]
    low, high = _box_ends((np.arange(_CENTRES) + 0.5) / _CENTRES, ratios)
    # Of a ratio, both coordinates of the centre are independent.
    return float(np.mean((high - low).mean(axis=1) ** 2))


def mix_pixels(
    mix: str, first: tf.Tensor, second: tf.Tensor, ratios: tf.Tensor, boxes: tf.Tensor
) -> tf.Tensor:
    """Mixes two batches of views.

    Args:
        mix: "mixup" or "cutmix".
        first, second: float32 [B, S, S, 3].
        ratios: float32 [B].
        boxes: float32 [B, 4]; a pixel is in a box if its centre is.

    Returns:
        float32 [B, S, S, 3].
    """
    if mix == "mixup":
        part = tf.reshape(ratios, [-1, 1, 1, 1])
        return part * first + (1.0 - part) * second
    if mix == "cutmix":
        inside = _inside(boxes[:, 0], boxes[:, 2], tf.shape(first)[1])[:, :, tf.newaxis]
        across = _inside(boxes[:, 1], boxes[:, 3], tf.shape(first)[2])[:, tf.newaxis, :]
        return tf.where((inside & across)[..., tf.newaxis], second, first)
    raise ValueError(f"unknown mix {mix!r}")


def _inside(low: tf.Tensor, high: tf.Tensor, size: tf.Tensor) -> tf.Tensor:
    """Which pixels of a side lie between two fractions of it, bool [B, size]."""
    centres = (tf.range(tf.cast(size, tf.float32)) + 0.5) / tf.cast(size, tf.float32)
    return (low[:, tf.newaxis] <= centres) & (centres < high[:, tf.newaxis])

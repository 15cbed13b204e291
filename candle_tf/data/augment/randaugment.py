"""RandAugment (Cubuk et al. 2020): a few of fourteen operations, sampled again for each view.

    operations, signs = draw_operations(2, seed=0, key=key, view=3)
    augmented = randaugment(pixels, operations[np.newaxis], signs[np.newaxis], magnitude=9)

The operations are Pillow's, which is where the paper's come from. (KerasCV's RandAugment draws
within its layers from generators with a state, so what a view looks like would depend on what was
drawn before.) Distances are fractions of the side, so a view is the same at every size.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf
from PIL import Image, ImageEnhance, ImageOps

from candle_tf.data.augment.operation import Drawing, Operation, Rendering
from candle_tf.data.augment.random_numbers import RANDAUGMENT, view_generator
from candle_tf.data.augment.settings import AugmentSettings

MAX_MAGNITUDE = 10.0
_BILINEAR = Image.Resampling.BILINEAR


def _affine(image: Image.Image, *coefficients: float) -> Image.Image:
    return image.transform(image.size, Image.Transform.AFFINE, coefficients, _BILINEAR)


def _enhance(kind: Callable[[Image.Image], ImageEnhance._Enhance]) -> "ImageOperation":
    return lambda image, level: kind(image).enhance(1.0 + 0.9 * level)


# From an image and a level in [-1, 1], magnitude / 10 with a random sign, to an image. What has
# no direction takes the level without its sign. The ranges are AutoAugment's (Cubuk et al. 2019,
# table 6); what is moved in from outside is black.
ImageOperation = Callable[[Image.Image, float], Image.Image]
OPERATIONS: dict[str, ImageOperation] = {
    "identity": lambda image, level: image,  # noqa: ARG005
    "auto_contrast": lambda image, level: ImageOps.autocontrast(image),  # noqa: ARG005
    "equalize": lambda image, level: ImageOps.equalize(image),  # noqa: ARG005
    "rotate": lambda image, level: image.rotate(30.0 * level, _BILINEAR),
    "solarize": lambda image, level: ImageOps.solarize(image, round(256 * (1 - abs(level)))),
    "posterize": lambda image, level: ImageOps.posterize(image, 8 - round(4 * abs(level))),
    "color": _enhance(ImageEnhance.Color),
    "contrast": _enhance(ImageEnhance.Contrast),
    "brightness": _enhance(ImageEnhance.Brightness),
    "sharpness": _enhance(ImageEnhance.Sharpness),
    "shear_x": lambda image, level: _affine(image, 1, 0.3 * level, 0, 0, 1, 0),
    "shear_y": lambda image, level: _affine(image, 1, 0, 0, 0.3 * level, 1, 0),
    "translate_x": lambda image, level: _affine(image, 1, 0, 0.45 * level * image.width, 0, 1, 0),
    "translate_y": lambda image, level: _affine(image, 1, 0, 0, 0, 1, 0.45 * level * image.height),
}
_IN_ORDER = tuple(OPERATIONS.values())


@dataclass(frozen=True)
class RandAugment(Operation):
    """A few random operations of `OPERATIONS`, one after the other.

    Attributes:
        magnitude: strength of all of them, 0 to 10.
        layers: L, operations on each view.
    """

    magnitude: float
    layers: int

    @classmethod
    def from_settings(cls, settings: AugmentSettings) -> "RandAugment | None":
        magnitude = settings.randaugment_magnitude
        return cls(magnitude, settings.randaugment_layers) if magnitude else None

    def draw(self, drawing: Drawing) -> dict[str, np.ndarray]:
        drawn = [draw_operations(self.layers, drawing.seed, *each) for each in drawing.each]
        operations, signs = zip(*drawn, strict=True)
        return {"operations": np.stack(operations), "signs": np.stack(signs)}

    def signature(self, before: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
        shape = [before["keys"].shape[0], self.layers]
        return {
            "operations": tf.TensorSpec(shape, tf.int64),
            "signs": tf.TensorSpec(shape, tf.float32),
        }

    def apply(self, pixels: tf.Tensor, rendering: Rendering) -> tf.Tensor:
        batch = rendering.batch
        return randaugment(pixels, batch["operations"], batch["signs"], self.magnitude)


def draw_operations(layers: int, seed: int, key: int, view: int) -> tuple[np.ndarray, np.ndarray]:
    """Draws the operations of a view, each with the same chance, and their directions.

    Args:
        layers: operations one after the other.
        seed, key, view: see `random_numbers.view_generator`.

    Returns:
        int64 [layers], places in `OPERATIONS`; float32 [layers], -1 or 1.
    """
    rng = view_generator(seed, key, view, RANDAUGMENT)
    operations = (rng.random(layers) * len(OPERATIONS)).astype(np.int64)
    return operations, np.where(rng.random(layers) < 0.5, -1, 1).astype(np.float32)


def randaugment(
    pixels: tf.Tensor, operations: tf.Tensor, signs: tf.Tensor, magnitude: float
) -> tf.Tensor:
    """Applies to each image the operations that were drawn for it.

    Args:
        pixels: float32 [B, S, S, 3] in 0..255; rounded to whole numbers first.
        operations: int64 [B, L].
        signs: float32 [B, L].
        magnitude: 0 to 10.

    Returns:
        float32 [B, S, S, 3], whole numbers in 0..255.
    """
    level = magnitude / MAX_MAGNITUDE

    def each(batch: np.ndarray, chosen: np.ndarray, directions: np.ndarray) -> np.ndarray:
        done = np.empty_like(batch)
        for i, array in enumerate(batch):
            image = Image.fromarray(array)
            for operation, sign in zip(chosen[i], directions[i], strict=True):
                image = _IN_ORDER[operation](image, float(sign) * level)
            done[i] = np.asarray(image)
        return done

    whole = tf.cast(tf.round(tf.clip_by_value(pixels, 0.0, 255.0)), tf.uint8)
    # Not stateful: with deterministic kernels TensorFlow would run the map on one thread otherwise.
    done = tf.numpy_function(each, [whole, operations, signs], tf.uint8, stateful=False)
    done.set_shape(whole.shape)
    return tf.cast(done, tf.float32)

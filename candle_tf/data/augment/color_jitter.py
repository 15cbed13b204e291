"""Colour jitter: brightness, contrast and saturation changed by random factors.

    factors = draw_factors(0.4, seed=0, key=key, view=3)      # float32 [3]
    jittered = jitter(pixels, factors[tf.newaxis])

KerasCV's RandomColorJitter draws from a generator with a state, so a view would depend on what was
drawn before it; and tf.image's functions of these names compute other things (brightness is added,
contrast is each channel's own). These are the definitions of the authors' transform.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.operation import Drawing, Operation, Rendering
from candle_tf.data.augment.random_numbers import COLOR, view_generator
from candle_tf.data.augment.settings import AugmentSettings

GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601's luma, as Pillow's "L"


@dataclass(frozen=True)
class ColorJitter(Operation):
    """Brightness, contrast and saturation by random factors.

    Attributes:
        strength: 0 to 1; factors are uniform in 1 -+ strength.
    """

    strength: float

    @classmethod
    def from_settings(cls, settings: AugmentSettings) -> "ColorJitter | None":
        return cls(settings.color_jitter) if settings.color_jitter else None

    def draw(self, drawing: Drawing) -> dict[str, np.ndarray]:
        factors = [draw_factors(self.strength, drawing.seed, *each) for each in drawing.each]
        return {"factors": np.stack(factors)}

    def signature(self, before: Mapping[str, tf.TensorSpec]) -> dict[str, tf.TensorSpec]:
        return {"factors": tf.TensorSpec([before["keys"].shape[0], 3], tf.float32)}

    def apply(self, pixels: tf.Tensor, rendering: Rendering) -> tf.Tensor:
        return jitter(pixels, rendering.batch["factors"])


def draw_factors(strength: float, seed: int, key: int, view: int) -> np.ndarray:
    """Brightness, contrast and saturation of a view: uniform in 1 -+ strength, never below 0.

    Args:
        strength: 0 and up; 0 gives 1, 1, 1.
        seed, key, view: see `random_numbers.view_generator`.

    Returns:
        float32 [3].
    """
    rng = view_generator(seed, key, view, COLOR)
    low = max(0.0, 1.0 - strength)
    return (low + (1.0 + strength - low) * rng.random(3)).astype(np.float32)


def jitter(pixels: tf.Tensor, factors: tf.Tensor) -> tf.Tensor:
    """Changes brightness, then contrast, then saturation, always in this order.

    Brightness b: b x. Contrast c: m + c (x - m), m the mean grey of the image. Saturation s:
    g + s (x - g), g the grey of the pixel. Each result is clipped to 0..255.

    Args:
        pixels: float32 [B, H, W, 3] in 0..255.
        factors: float32 [B, 3], as `draw_factors` gives them; 1 changes nothing.

    Returns:
        float32 [B, H, W, 3] in 0..255.
    """
    brightness, contrast, saturation = (
        tf.reshape(factor, [-1, 1, 1, 1]) for factor in tf.unstack(factors, axis=1)
    )
    pixels = tf.clip_by_value(brightness * pixels, 0.0, 255.0)
    mean = tf.reduce_mean(_grey(pixels), axis=[1, 2, 3], keepdims=True)
    pixels = tf.clip_by_value(mean + contrast * (pixels - mean), 0.0, 255.0)
    grey = _grey(pixels)
    return tf.clip_by_value(grey + saturation * (pixels - grey), 0.0, 255.0)


def _grey(pixels: tf.Tensor) -> tf.Tensor:
    return tf.reduce_sum(pixels * tf.constant(GREY), axis=-1, keepdims=True)

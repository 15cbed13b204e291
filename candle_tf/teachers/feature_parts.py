"""A teacher's features as parts side by side: of teachers, of their layers, of resolutions.

    teacher = load_teacher("efficientnet_lite0+efficientnet_lite2", layers=2)
    [(part.teacher, part.layer, part.size) for part in teacher.parts]
    # [("efficientnet_lite0", 0, 1280), ("efficientnet_lite0", 1, 672), ("efficientnet_lite2", ...
    at_resolutions(teacher.parts, count=3)                 # what 3 resolutions side by side give
    JoinedFeatures((at_96_px, at_128_px, at_160_px))       # their stored features, as one array

A linear classifier of parts side by side is a sum of linear classifiers, one for every part. So any
weighted average of the logits of several teachers, layers or resolutions is among those that
calibration chooses from.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from candle_tf.data.cached_arrays import key_digest


@dataclass(frozen=True)
class FeaturePart:
    """Successive columns of a teacher's features.

    Attributes:
        teacher: name of the network they come from.
        size: columns.
        layer: 0 for the last; k for the k-th before it at an earlier stride (`earlier_maps`).
        weights: that network's weights file, "" for its own.
        scale: constant that the network's pooled features are multiplied by.
    """

    teacher: str
    size: int
    layer: int = 0
    weights: str = ""
    scale: float = 1.0


def at_resolutions(parts: Sequence[FeaturePart], count: int) -> tuple[FeaturePart, ...]:
    """The parts of features at so many resolutions side by side."""
    return tuple(parts) * count


def resolution_groups(resolutions: Sequence[int], concatenate: bool) -> tuple[tuple[int, ...], ...]:
    """The resolutions whose features stand side by side in one row.

    Args:
        resolutions: sides in pixels.
        concatenate: all in one row; else each in a row of its own, to be averaged.
    """
    return (tuple(resolutions),) if concatenate else tuple((side,) for side in resolutions)


def column_scales(features: np.ndarray, parts: Sequence[FeaturePart]) -> np.ndarray:
    """What the parts are multiplied by, to have features of one size.

    Networks differ in that by factors. Without it the part with the largest features would learn
    fastest in calibration (Adam moves all weights alike) and decide alone in the losses on
    features. A constant for a part leaves what a linear classifier of it can compute.

    Args:
        features: of some images, float [N, d_T], with all scales 1.
        parts: of its columns.

    Returns:
        float32 [P]: s_1 / s_p, where s_p^2 is the variance over images, mean over the part's
        features; 1 where one of both is 0.
    """
    ends = np.cumsum([part.size for part in parts])
    variances = np.split(np.var(np.asarray(features, np.float64), axis=0), ends[:-1])
    deviations = np.sqrt([each.mean() for each in variances])
    with np.errstate(divide="ignore", invalid="ignore"):
        scales = deviations[0] / deviations
    return np.where((scales > 0) & np.isfinite(scales), scales, 1.0).astype(np.float32)


@dataclass(frozen=True)
class JoinedFeatures:
    """Stored features of the same rows side by side, read as if they were one array.

    Attributes:
        arrays: float16 [R, d] each, in memory or memory-mapped.
    """

    arrays: tuple[np.ndarray, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(R, sum of d)."""
        return len(self.arrays[0]), sum(each.shape[1] for each in self.arrays)

    def __len__(self) -> int:
        return len(self.arrays[0])

    def __getitem__(self, rows: slice | np.ndarray) -> np.ndarray:
        """Some rows, in memory; no others are read."""
        return np.concatenate([each[rows] for each in self.arrays], axis=1)


StoredFeatures = np.ndarray | JoinedFeatures


def join_arrays(
    arrays: Sequence[np.ndarray], keys: Sequence[Mapping[str, Any]]
) -> tuple[StoredFeatures, dict[str, Any]]:
    """Stored features side by side, and a key of them; of one array, itself and its own key.

    Args:
        arrays: float16 [R, d] each.
        keys: `features.features_key` of each.
    """
    if len(arrays) == 1:
        return arrays[0], dict(keys[0])
    return JoinedFeatures(tuple(arrays)), {"side by side": [key_digest(key) for key in keys]}


def side_by_side(features: Sequence[tf.Tensor]) -> tf.Tensor:
    """Keras tensors of features [N, d] as one, in float32 under any policy of mixed precision."""
    if len(features) == 1:
        return features[0]
    return tf.keras.layers.Concatenate(dtype="float32")(features)


def encoder_at_resolutions(encoder: tf.keras.Model, resolutions: Sequence[int]) -> tf.keras.Model:
    """From one image to the features at several resolutions side by side, for one file.

    Args:
        encoder: from pixels, float32 [N, H, W, 3] in 0..255 with any H and W, to features [N, d].
        resolutions: sides in pixels.

    Returns:
        Model from pixels, float32 [N, S, S, 3] of the largest resolution S, to features
        [N, len(resolutions) d]. Images are made smaller in it as `data.augment.crops` does it.
    """
    side = max(resolutions)
    pixels = tf.keras.Input((side, side, 3), dtype="float32", name="pixels")
    features = [encoder(pixels if each == side else Shrink(each)(pixels)) for each in resolutions]
    return tf.keras.Model(pixels, side_by_side(features), name="teacher_encoder", trainable=False)


class Shrink(tf.keras.layers.Layer):
    """`shrink` to a size, as a layer of a network.

    Args:
        size: of the result in pixels.
    """

    def __init__(self, size: int) -> None:
        super().__init__(trainable=False, dtype="float32")
        self._size = size

    def call(self, pixels: tf.Tensor) -> tf.Tensor:
        return shrink(pixels, self._size)


def shrink(pixels: tf.Tensor, size: int) -> tf.Tensor:
    """Antialiased bilinear resizing of square images by two 1x1 convolutions without weights of
    their own: TFLite's own resizing is not antialiased.

    Args:
        pixels: float32 `[N, S, S, 3]`; S is known when this is traced.
        size: of the result in pixels.

    Returns:
        Float32 `[N, size, size, 3]`.
    """
    # Resizing is linear: what it makes of each pixel of a column alone, float32 [size, S].
    with tf.init_scope():
        columns = tf.eye(pixels.shape[1])[..., tf.newaxis]
        weights = tf.image.resize(columns, (size, pixels.shape[1]), antialias=True)[..., 0].numpy()
    kernel = weights.T[np.newaxis, np.newaxis]
    for _ in range(2):
        # The last axis is resized, and the other one comes to its place.
        pixels = tf.transpose(pixels, [0, 3, 1, 2])
        pixels = tf.nn.conv2d(pixels, kernel, strides=1, padding="VALID")
        pixels = tf.transpose(pixels, [0, 3, 2, 1])
    return pixels

"""What a student is measured on and deployed with: the whole image, or its centre.

inputs = render_evaluation(subset.batch(index), size=64)
"""

from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from candle_tf.data.augment.crops import render_views
from candle_tf.data.images.store import image_aspect, stretch


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

"""A student that is trained on images of other sizes than its own input's.

with any_image_size(student):
    training_forward(student)(pixels)           # float [B, S, S, 3] of any S

Students are convolutions up to the global pooling: their weights fit any size. Keras refuses other
sizes than that of a network's `Input` alone because they are other ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import tensorflow as tf


@contextmanager
def any_image_size(network: tf.keras.Model) -> Iterator[None]:
    """Lets a network be called on images of any size; at the end only on those of its own.

    Args:
        network: a functional Keras model with one input, `[N, H, W, 3]`.
    """
    before = network.input_spec
    network.input_spec = [tf.keras.layers.InputSpec(shape=(None, None, None, 3))]
    try:
        yield
    finally:
        network.input_spec = before


def explain_fixed_size(network: tf.keras.Model, side: int) -> str:
    """Why a network's weights do not serve images of another size; empty where they do.

    Nothing is computed, only the shapes.

    Args:
        network: a functional Keras model from images to "features" and "logits".
        side: of the other images, in pixels.
    """

    @tf.function(autograph=False)
    def call(pixels: tf.Tensor) -> dict[str, tf.Tensor]:
        return dict(network(pixels, training=True))

    with any_image_size(network):
        try:
            outputs = call.get_concrete_function(tf.TensorSpec([1, side, side, 3])).outputs
        # What Keras and TensorFlow raise for shapes that do not fit.
        except (ValueError, tf.errors.OpError) as error:
            return _reason(error)
    wanted = [tuple(output.shape[1:]) for output in tf.nest.flatten(network.output)]
    found = [tuple(output.shape[1:]) for output in outputs]
    return "" if found == wanted else f"its outputs have the shapes {found}, and not {wanted}"


def _reason(error: Exception) -> str:
    """Of a message that Keras begins with the layers which it came through."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    told = [line for line in lines if not line.startswith("Exception encountered when calling")]
    return (told or lines or [type(error).__name__])[0]

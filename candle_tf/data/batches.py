"""A `tf.data` pipeline that begins with a Python generator of batches.

dataset = batches_from(generate, {"labels": tf.TensorSpec([32], tf.int32)}).prefetch(4)
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf


def batches_from(
    generate: Callable[[], Iterator[Mapping[str, np.ndarray]]],
    signature: Mapping[str, tf.TensorSpec],
) -> tf.data.Dataset:
    """The generator's batches as a dataset, which `tf.data` does not tune.

    Nothing is left to its tuner here, as all buffers and calls have a fixed size. But an iterator
    that is given up waits for it, for a second where steps are long: at the end of every epoch's
    validation.

    Args:
        generate: called again for each pass.
        signature: shape and type of each part of a batch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_generator(generate, output_signature=dict(signature))
    return dataset.with_options(options)

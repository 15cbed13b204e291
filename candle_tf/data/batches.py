"""A `tf.data` pipeline that starts with a Python generator of batches.

dataset = dataset_from_generator(generate, {"labels": tf.TensorSpec([32], tf.int32)}).prefetch(4)
"""

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import tensorflow as tf


def dataset_from_generator(
    generate: Callable[[], Iterator[Mapping[str, np.ndarray]]],
    signature: Mapping[str, tf.TensorSpec],
) -> tf.data.Dataset:
    """Makes a dataset of the generator's batches, without the autotuner of `tf.data`.

    The tuner is not needed, as all buffers and numbers of parallel calls are fixed. With it, an
    iterator that is closed early waits for up to a second, e.g. at the end of validation.

    Args:
        generate: called again for each pass.
        signature: shape and type of each entry of a batch.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    dataset = tf.data.Dataset.from_generator(generate, output_signature=dict(signature))
    return dataset.with_options(options)

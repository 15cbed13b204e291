import numpy as np
import pytest
import tensorflow as tf

from candle_tf.data.batches import dataset_from_generator
from candle_tf.errors import UserError, find_user_error

SIGNATURE = {"labels": tf.TensorSpec([2], tf.int32)}


def _generate():
    for first in (0, 2, 4):
        yield {"labels": np.arange(first, first + 2, dtype=np.int32)}


def test_each_pass_has_the_generators_batches():
    dataset = dataset_from_generator(_generate, SIGNATURE)
    for _ in range(2):
        np.testing.assert_array_equal([b["labels"] for b in dataset], [[0, 1], [2, 3], [4, 5]])


def test_the_tuner_stays_off_behind_further_steps():
    dataset = dataset_from_generator(_generate, SIGNATURE).map(lambda batch: batch).prefetch(2)
    assert dataset.options().autotune.enabled is False


@pytest.mark.parametrize("raised", [UserError("cat.png is gone.\nRestore it."), ValueError("odd")])
def test_the_error_for_a_user_is_found_in_that_of_the_pipeline(raised):
    def generate():
        yield from _generate()
        raise raised

    dataset = dataset_from_generator(generate, SIGNATURE).map(lambda batch: batch).prefetch(2)
    with pytest.raises(tf.errors.OpError) as caught:
        list(dataset)
    found = find_user_error(caught.value)
    assert (str(found) if found else None) == (
        str(raised) if isinstance(raised, UserError) else None
    )

"""What the load run counts as wrong."""

import dataclasses

import tensorflow as tf

from tests.deploy.preprocessing.test_preprocessing import in_graph
from tools.load_test import Best, bad_images, good_images


def test_another_class_name_or_score_is_wrong():
    best = Best(["a", "b", "c"], [0, 1, 2], [0.5, 0.3, 0.1])
    assert best.agrees(best)
    assert best.agrees(dataclasses.replace(best, scores=[0.50001, 0.3, 0.1]))
    for wrong in (
        {"scores": [0.51, 0.3, 0.1]},
        {"ids": [3, 1, 2]},
        {"names": ["b", "a", "c"]},
        {"scores": [float("nan"), 0.3, 0.1]},
    ):
        assert not dataclasses.replace(best, **wrong).agrees(best), wrong


def test_its_good_images_are_read_and_its_bad_ones_are_not():
    good = good_images()
    assert len({in_graph(each).shape.as_list()[0] for each in good}) > 5
    for bad in bad_images(good):
        try:
            in_graph(bad)
        except tf.errors.InvalidArgumentError:
            continue
        raise AssertionError(f"{bad[:10]!r} was read")

"""Which epoch is used, and the standard error that decides it."""

import numpy as np
import pytest

from candle_tf.methods.epoch_selection import select_epoch, standard_error


def test_the_standard_error_is_that_of_simulated_accuracies():
    counts = np.array([40, 7, 1, 0])
    rng = np.random.default_rng(0)
    hits = [rng.binomial(n, 0.7, 200_000) / n for n in counts if n]
    assert standard_error(0.7, counts) == pytest.approx(np.std(np.mean(hits, axis=0)), rel=0.01)


def test_it_falls_with_the_square_root_of_the_images():
    counts = np.array([4, 9, 2])
    assert standard_error(0.4, 4 * counts) == pytest.approx(standard_error(0.4, counts) / 2)


@pytest.mark.parametrize(
    ("images", "epoch"),
    # Of a gain of 4 points: standard errors of 4.2, 2.4, 1.9 and 0.4 points.
    [(50, 3), (150, 3), (250, 2), (5000, 2)],
)
def test_auto_takes_the_best_where_the_images_can_tell(images, epoch):
    counts = np.full(10, images // 10)
    selected = select_epoch("auto", [0.5, 0.92, 0.88], 2, counts)
    assert selected.epoch == epoch
    error = 100 * np.sqrt(0.9 * 0.1 / images)
    assert f"{error:.1f} points" in selected.reason
    assert "4.0 points above" in selected.reason


def test_the_other_policies_do_as_they_say():
    counts, scores = np.array([5, 5]), [0.1, 0.9, 0.8]
    assert select_epoch("best", scores, 2, counts).epoch == 2
    assert select_epoch("last", scores, 2, counts).epoch == 3
    assert select_epoch("auto", [0.1, 0.8, 0.9], 3, counts).epoch == 3
    with pytest.raises(ValueError, match="newest"):
        select_epoch("newest", scores, 2, counts)


def test_without_validation_images_auto_is_the_last():
    assert select_epoch("auto", [None, None], 2, np.zeros(3, int)).epoch == 2

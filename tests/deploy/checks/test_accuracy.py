import numpy as np
import pytest

from candle_tf.deploy.checks.accuracy import check_accuracy
from candle_tf.deploy.checks.errors import ExportError

# 30 images of each of 4 classes, 2 of the last.
LABELS = np.repeat(np.arange(5), [30, 30, 30, 30, 2])
GROUPS = {"many": np.array([0, 1]), "medium": np.array([2, 3]), "few": np.array([4])}


def outputs_with_mistakes(wrong: list[int]) -> np.ndarray:
    predicted = LABELS.copy()
    predicted[wrong] = (predicted[wrong] + 1) % 5
    return np.eye(5)[predicted]


def check(before: list[int], after: list[int]):
    return check_accuracy(
        outputs_with_mistakes(before), outputs_with_mistakes(after), LABELS, GROUPS, "x.tflite"
    )


def test_points_are_of_the_mean_class_accuracy():
    changes = check([0, 1, 35], [0, 1, 60])
    assert set(changes) == {"mean", "many", "medium", "few"}
    assert changes["many"].points == pytest.approx(100 / 60)
    assert changes["medium"].points == pytest.approx(-100 / 60)
    assert changes["few"].points == 0
    assert changes["mean"].points == pytest.approx(0)
    assert (changes["mean"].gained, changes["mean"].lost) == (1, 1)
    assert (changes["many"].gained, changes["many"].lost) == (1, 0)
    assert changes["few"].chance == 1.0


def test_a_lost_image_of_a_small_class_is_reported_and_not_refused(caplog):
    with caplog.at_level("WARNING"):
        changes = check([], [121])
    assert changes["few"].points == pytest.approx(-50)
    assert not changes["few"].is_close
    assert changes["few"].chance == 1.0
    assert "few) is -50.0 points" in caplog.text


def test_what_only_loses_is_refused_by_its_group_even_if_another_gains_as_much():
    lost, gained = list(range(11)), list(range(60, 71))
    with pytest.raises(ExportError, match=r"x\.tflite: .*\(many\) is -18\.3 points.*lost 11"):
        check(gained, lost)


def test_the_probability_is_mcnemars():
    # Of 8 changed images 1 or fewer, or 7 or more, were lost: 2 (1 + 8) / 2^8.
    changes = check([0], list(range(1, 8)))
    assert changes["many"].chance == pytest.approx(18 / 256)


def test_six_of_six_are_chance_and_eleven_of_eleven_are_not():
    assert check([], list(range(6)))["many"].chance == pytest.approx(2 / 2**6)
    with pytest.raises(ExportError):
        check([], list(range(11)))


def test_groups_without_tested_images_are_absent():
    changes = check_accuracy(
        outputs_with_mistakes([])[:60], outputs_with_mistakes([])[:60], LABELS[:60], GROUPS, "x"
    )
    assert set(changes) == {"mean", "many"}

"""Checks that a converted file is as accurate as the student, up to chance, group by group.

changes = check_accuracy(logits, run(flatbuffer, pixels), labels, groups, "student.lce.tflite")
changes["few"].points                   # accuracy of the file minus the student's
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from absl import logging
from scipy.stats import binomtest

from candle_tf.deploy.checks.errors import ExportError

# Of mean class accuracy, in percentage points.
TOLERANCE = 0.2
# Below this probability a change is no matter of chance.
CHANCE = 1e-3


@dataclass(frozen=True)
class AccuracyChange:
    """How a file's accuracy differs from the student's on the same images.

    Attributes:
        points: mean class accuracy of the file minus the student's, in percentage points.
        gained: images that the file alone classifies correctly.
        lost: images that the student alone classifies correctly.
        chance: probability of a split of those at least as uneven if each could as well have gone
            the other way (McNemar's exact test); 1 where there are none.
    """

    points: float
    gained: int
    lost: int
    chance: float

    @property
    def is_close(self) -> bool:
        """Whether the accuracy is the student's within `TOLERANCE`."""
        return abs(self.points) <= TOLERANCE + 1e-9


def check_accuracy(
    expected: np.ndarray,
    actual: np.ndarray,
    labels: np.ndarray,
    groups: Mapping[str, np.ndarray],
    what: str,
) -> dict[str, AccuracyChange]:
    """Compares a file with the student on a whole test set, and refuses what flips do not explain.

    A sign that rounding flips changes its image's logits, at times the class, and one of few images
    is more than `TOLERANCE`: of 37, it is 2.7 points. But rounding does not know the labels: it
    gains images as well as it loses them. So a change beyond `TOLERANCE` is refused where so uneven
    a split of the changed images has a probability below `CHANCE`, and is only reported where
    chance explains it. Six lost images and none gained are chance, eleven are not.

    Args:
        expected: the student's logits, float `[N, C]`.
        actual: the file's, float `[N, C]`.
        labels: int `[N]`.
        groups: classes of each shot group, int.
        what: how messages call the file.

    Returns:
        The change over all classes ("mean") and by shot group, of those with tested images.

    Raises:
        ExportError: for a change beyond `TOLERANCE` that is not chance.
    """
    before = expected.argmax(axis=1) == labels
    after = actual.argmax(axis=1) == labels
    members = {"mean": np.unique(labels), **groups}
    changes = {}
    for name, classes in members.items():
        tested = np.intersect1d(classes, labels)
        if tested.size:
            changes[name] = _change(before, after, labels, tested)
    for name, change in changes.items():
        if change.is_close:
            continue
        message = (
            f"{what}: accuracy ({name}) is {change.points:+.1f} points from the student's; of the "
            f"images that changed it lost {change.lost} and gained {change.gained}"
        )
        if change.chance < CHANCE:
            raise ExportError(f"{message}, which is not chance (p = {change.chance:.1e}).")
        logging.warning("%s, as flipped signs may (p = %.2g).", message, change.chance)
    return changes


def _change(
    before: np.ndarray, after: np.ndarray, labels: np.ndarray, classes: np.ndarray
) -> AccuracyChange:
    inside = np.isin(labels, classes)
    gained = int((after & ~before & inside).sum())
    lost = int((before & ~after & inside).sum())
    by_class = [after[labels == c].mean() - before[labels == c].mean() for c in classes]
    chance = float(binomtest(lost, gained + lost).pvalue) if gained + lost else 1.0
    return AccuracyChange(100 * float(np.mean(by_class)), gained, lost, chance)

"""The table of all classes: accuracy of each with its interval, precision, F1, and its confusions.

table = class_table(results, confusion_matrix(labels, predicted, classes))
"""

import math

import numpy as np

from candle_tf.metrics import precision_and_f1
from candle_tf.reporting.html import Table
from candle_tf.reporting.results import Results
from candle_tf.reporting.table import ABSENT, percent

_Z95 = 1.959964
_SCORES = ("precision %", "F1 %")


def class_table(results: Results, matrix: np.ndarray) -> Table:
    """One row a class, the least accurate first.

    Args:
        results: of the run; its "student" is shown, beside its "teacher" if there is one.
        matrix: of the student, int `[C, C]`, test images by true (row) and predicted class.
    """
    counts = results.split["train_counts"]
    names = list(counts)
    group_of = {
        name: group for group, members in results.split["groups"].items() for name in members
    }
    teacher = results.metrics.get("teacher")
    precision, f1 = precision_and_f1(np.diag(matrix), matrix.sum(axis=1), matrix.sum(axis=0))
    rows = []
    for c in _worst_first(matrix):
        right, total = int(matrix[c, c]), int(matrix[c].sum())
        accuracy, interval = ABSENT, ABSENT
        if total:
            low, high = wilson_interval(right, total)
            accuracy, interval = percent(right / total), f"{percent(low)}–{percent(high)}"
        of_teacher = teacher.per_class[c] if teacher else None
        rows.append(
            [
                names[c],
                _worst_confusion(matrix[c], c, names),
                group_of.get(names[c], ABSENT),
                f"{counts[names[c]]:,}",
                f"{total:,}",
                accuracy,
                interval,
                _percent(precision[c]),
                _percent(f1[c]),
                *([ABSENT if of_teacher is None else percent(of_teacher)] if teacher else []),
            ]
        )
    columns = ["class", "mostly taken for", "shots", "training", "test", "%", "95 %", *_SCORES]
    return Table(
        [*columns, *(["teacher %"] if teacher else [])],
        rows,
        f"Each of {len(names):,} classes: numbers of images (training: with validation images), "
        "the student's accuracy and its 95 % interval; its precision, the share of the images "
        "predicted as the class that are of it, and F1, the harmonic mean of both. A click on a "
        "heading sorts; a long table scrolls.",
        left=2,
        sortable=True,
        folded=False,
        wide_only=("shots", *_SCORES),
    )


def _percent(share: float) -> str:
    return ABSENT if np.isnan(share) else percent(share)


def wilson_interval(right: int, total: int) -> tuple[float, float]:
    """95 % interval of a share, 0 to 1 (Wilson, "Probable Inference", 1927).

    Args:
        right: successes, at most `total`.
        total: trials, at least 1.
    """
    share, z2 = right / total, _Z95**2
    middle = (share + z2 / (2 * total)) / (1 + z2 / total)
    half = _Z95 * math.sqrt(share * (1 - share) / total + z2 / (4 * total**2)) / (1 + z2 / total)
    return max(0.0, middle - half), min(1.0, middle + half)


def _worst_first(matrix: np.ndarray) -> np.ndarray:
    totals = matrix.sum(axis=1)
    right = np.divide(np.diag(matrix), totals, out=np.full(len(totals), 2.0), where=totals > 0)
    return np.argsort(right, kind="stable")


def _worst_confusion(row: np.ndarray, own: int, names: list[str]) -> str:
    others = row.copy()
    others[own] = 0
    worst = int(others.argmax())
    return f"{names[worst]} ({others[worst]:,})" if others[worst] else ABSENT

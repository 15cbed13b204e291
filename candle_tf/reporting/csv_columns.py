"""A log of a training, history.csv or steps.csv, by column; and the lines of CSV files.

steps = read_columns(run / "student" / "steps.csv")        # {"kl": float [S], ...}
steps = read_student_steps(run)                            # the same, of any method
csv_line(["a,b.png", "cat"])                               # "a,b.png",cat
"""

import csv
import io
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from candle_tf.errors import UserError

# Folders of a run with the logs of its student; a method with two stages has both.
FIRST_STAGE, STUDENT = "student_stage1", "student"


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Float `[rows]` of each column; empty where the file is missing or has no row.

    Raises:
        UserError: for a damaged file: a value is missing, or no number.
    """
    if not path.exists():
        return {}
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        names = list(rows[0]) if rows else []
        return {name: np.array([float(row[name]) for row in rows]) for name in names}
    except (csv.Error, TypeError, ValueError) as error:
        raise UserError(
            f"{path} is damaged: {error}. Start the run again to write it again."
        ) from error


def read_student_steps(run: Path) -> dict[str, np.ndarray]:
    """The columns of the steps.csv that has the losses of the whole student.

    Args:
        run: the run's folder.

    Returns:
        Float `[S]` of each column, as `read_columns`; of a method with two stages those of the
        first, as the second trains the classifier alone.

    Raises:
        UserError: as `read_columns`.
    """
    first = run / FIRST_STAGE / "steps.csv"
    return read_columns(first if first.exists() else run / STUDENT / "steps.csv")


def csv_line(cells: Iterable[str]) -> str:
    """A line of a CSV file, with its end, from which a CSV reader has the same cells."""
    row = list(cells)
    # Python 3.11 does not quote a carriage return, which ends the line for a reader.
    has_return = any("\r" in cell for cell in row)
    text = io.StringIO()
    csv.writer(
        text, lineterminator="\n", quoting=csv.QUOTE_ALL if has_return else csv.QUOTE_MINIMAL
    ).writerow(row)
    return text.getvalue()

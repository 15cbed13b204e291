"""A log of a training, history.csv or steps.csv, by column; and the lines of CSV files.

steps = read_columns(run / "student" / "steps.csv")        # {"kl": float [S], ...}
steps = read_student_steps(run)                            # the same, of any method
csv_line(["a,b.png", "cat"])                               # "a,b.png",cat
"""

import csv
import io
import warnings
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
        with path.open(newline="") as file, warnings.catch_warnings():
            names = next(csv.reader(file), [])
            # Of a file without rows.
            warnings.filterwarnings("ignore", "loadtxt: input contained no data")
            rows = np.loadtxt(file, delimiter=",", comments=None, ndmin=2)
        if len(rows) and rows.shape[1] != len(names):
            raise ValueError(f"{len(names)} columns have names, of {rows.shape[1]}")
    except (csv.Error, ValueError) as error:
        reason = str(error).rstrip(".")
        raise UserError(
            f"{path} is damaged: {reason}. Start the run again to write it again."
        ) from error
    # Each in memory of its own: one that is kept does not keep all.
    return {name: rows[:, place].copy() for place, name in enumerate(names) if len(rows)}


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

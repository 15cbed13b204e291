"""A log of a training, history.csv or steps.csv, by column.

steps = read_columns(run / "student" / "steps.csv")        # {"kl": float [S], ...}
"""

import csv
from pathlib import Path

import numpy as np

from candle_tf.errors import UserError


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

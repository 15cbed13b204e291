"""A log of a training, history.csv or steps.csv, by column.

steps = read_columns(run / "student" / "steps.csv")        # {"kl": float [S], ...}
"""

import csv
from pathlib import Path

import numpy as np


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Float `[rows]` of each column; empty where the file is missing or has no row.

    Raises:
        TypeError, ValueError: where a value is missing, or no number; for a damaged file.
    """
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        try:
            rows = list(csv.DictReader(file))
        except csv.Error as error:
            raise ValueError(f"{path}: {error}") from error
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]} if rows else {}

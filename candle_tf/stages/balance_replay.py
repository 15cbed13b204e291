"""What --balance_replay stands for: lambda of each step, as another run's steps.csv has it.

read_balance_replay(config)                     # None without one
lambdas = keep_balance_replay(config)           # and it stays what it is in this run
"""

from pathlib import Path

import numpy as np

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.methods.balance import TotalLoss
from candle_tf.methods.class_balance import ClassTotalLoss
from candle_tf.reporting.csv_columns import read_columns
from candle_tf.stages.reference_run import open_reference_run


def read_balance_replay(config: Config) -> np.ndarray | None:
    """Lambda that the adversary of the run that --balance_replay names had.

    Returns:
        Of each step there and each of the total loss's `lambda_columns`, float64
        `[steps, columns]` in [0, 1]; what `keep_balance_replay` wrote, where it did; None without
        the flag.

    Raises:
        UserError: where the folder is no finished run of `candle` with the same --balance, or its
            steps.csv does not have them.
    """
    given = config.balance.balance_replay
    if not given:
        return None
    columns = lambda_columns(config)
    kept = _kept_path(config)
    if kept.is_file():
        return _read_lambdas(kept, columns, f"{kept}")
    balance = config.balance.balance
    run = open_reference_run("balance_replay", given, f"--balance={balance}")
    before = run.config
    if before.training.method != "candle" or before.balance.balance != balance:
        raise UserError(
            f"--balance_replay={given} is a run of --method={before.training.method} and "
            f"--balance={before.balance.balance}; its lambda is not that of --balance={balance}. "
            "Give a run of candle with the same --balance."
        )
    return _read_lambdas(run.steps_path, columns, f"--balance_replay={given}")


def keep_balance_replay(config: Config) -> np.ndarray | None:
    """The same, written into this run's folder, which has it from then on."""
    lambdas = read_balance_replay(config)
    if lambdas is not None and not _kept_path(config).is_file():
        lines = [",".join(lambda_columns(config))]
        lines += [",".join(repr(float(value)) for value in row) for row in lambdas]
        write_atomically(_kept_path(config), ("\n".join(lines) + "\n").encode())
    return lambdas


def lambda_columns(config: Config) -> tuple[str, ...]:
    """The columns of steps.csv that have a run's lambda."""
    of_classes = config.balance.balance == "class_adversarial"
    return (ClassTotalLoss if of_classes else TotalLoss).lambda_columns


def _kept_path(config: Config) -> Path:
    return Path(config.run.run_dir) / "student" / "balance_replay.csv"


def _read_lambdas(path: Path, columns: tuple[str, ...], place: str) -> np.ndarray:
    try:
        found = read_columns(path)
        lambdas = np.stack([found[name] for name in columns], axis=1).astype(np.float64)
    except (KeyError, TypeError, ValueError):
        lambdas = np.full([1, 1], np.nan)
    # Of no step at all, too.
    if not (lambdas.size and (lambdas >= 0).all() and (lambdas <= 1).all()):
        raise UserError(
            f"{place}: {path.name} does not have {', '.join(columns)}, each from 0 to 1, at every "
            "step. The file is damaged, or of an older version: give another run."
        )
    return lambdas

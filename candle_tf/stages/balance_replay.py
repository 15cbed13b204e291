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
from candle_tf.stages.reference_run import (
    has_kept,
    kept_path,
    open_reference_run,
    path_at_start,
)

_KEPT = "balance_replay.csv"


def read_balance_replay(config: Config) -> np.ndarray | None:
    """Lambda that the adversary of the run that --balance_replay names had.

    Returns:
        Of each step there and each of the total loss's `lambda_columns`, float64
        `[steps, columns]` in [0, 1]; what `keep_balance_replay` wrote, where it did; None without
        the flag.

    Raises:
        UserError: where the folder is no finished run of `candle` with the same --balance and one
            training phase, or its steps.csv does not have them; where it is another folder than
            this run was begun with, and has another lambda.
    """
    if not config.balance.balance_replay:
        return None
    if not has_kept(config, _KEPT):
        return _read_run(config)
    kept = kept_path(config, _KEPT)
    lambdas = _read_lambdas(kept, lambda_columns(config))
    if lambdas is None:
        raise UserError(f"{kept} is damaged. Restore it, or give another --run_dir.")
    _require_same_lambdas(config, lambdas)
    return lambdas


def _require_same_lambdas(config: Config, lambdas: np.ndarray) -> None:
    """Refuses to resume a run by another path whose run has another lambda."""
    given = config.balance.balance_replay
    before = path_at_start(config, "balance_replay")
    if before != given and not np.array_equal(_read_run(config), lambdas):
        raise UserError(
            f"{config.run.run_dir} has a run with other settings: --balance_replay was {before} "
            f"and is now {given}, which has another lambda. Give --balance_replay={before}, also "
            "where that run is no longer there, or another --run_dir."
        )


def _read_run(config: Config) -> np.ndarray:
    given = config.balance.balance_replay
    place, balance = f"--balance_replay={given}", f"--balance={config.balance.balance}"
    run = open_reference_run("balance_replay", given, balance)
    _require_same_adversary(run.config, config, place)
    columns = lambda_columns(config)
    lambdas = _read_lambdas(run.steps_path, columns)
    if lambdas is None:
        raise UserError(
            f"{place}: its steps.csv does not have {', '.join(columns)}, each from 0 to 1, at "
            "every step. The file is damaged, or of an older version: give another run."
        )
    return lambdas


def _require_same_adversary(before: Config, config: Config, place: str) -> None:
    """Refuses runs whose lambda is not what it would be here."""
    method, balance = before.training.method, before.balance.balance
    if method != "candle":
        raise UserError(f"{place} is a run of --method={method}; give one of --method=candle.")
    if balance != config.balance.balance:
        raise UserError(
            f"{place} is a run of --balance={balance}; its lambda is not that of "
            f"--balance={config.balance.balance}. Give a run with the same."
        )
    if before.training.binary_steps == 2:
        raise UserError(
            f"{place} has two training phases, each with a lambda of its own (--binary_steps=2). "
            "Give a run with one."
        )
    if before.balance.balance_closed_form:
        raise UserError(
            f"{place} has --balance_closed_form, whose lambda jumps between the thirds of class "
            "sizes; three sizes are recorded. Give a run with an adversary."
        )
    permuted = before.balance.balance_permute_sizes, config.balance.balance_permute_sizes
    if permuted != (False, False) and (before.run.seed != config.run.seed or not all(permuted)):
        raise UserError(
            f"{place} gives its lambda to other classes: --balance_permute_sizes and --seed are "
            f"{permuted[0]} and {before.run.seed} there, {permuted[1]} and {config.run.seed} here. "
            "Give a run with the same."
        )


def keep_balance_replay(config: Config) -> np.ndarray | None:
    """The same, written into this run's folder, which has it from then on."""
    lambdas = read_balance_replay(config)
    if lambdas is not None and not has_kept(config, _KEPT):
        lines = [",".join(lambda_columns(config))]
        lines += [",".join(repr(float(value)) for value in row) for row in lambdas]
        write_atomically(kept_path(config, _KEPT), ("\n".join(lines) + "\n").encode())
    return lambdas


def lambda_columns(config: Config) -> tuple[str, ...]:
    """The columns of steps.csv that have a run's lambda."""
    of_classes = config.balance.balance == "class_adversarial"
    return (ClassTotalLoss if of_classes else TotalLoss).lambda_columns


def _read_lambdas(path: Path, columns: tuple[str, ...]) -> np.ndarray | None:
    """Float64 `[steps, columns]`; None where a file does not have them at every step."""
    try:
        found = read_columns(path)
        lambdas = np.stack([found[name] for name in columns], axis=1).astype(np.float64)
    except (KeyError, UserError):
        return None
    is_whole = lambdas.size and (lambdas >= 0).all() and (lambdas <= 1).all()
    return lambdas if is_whole else None

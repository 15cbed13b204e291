"""A finished run of CANDLE, of which another run's balance takes something over.

reference = open_reference_run("balance_floors", "runs/fixed")
reference.config.balance.fixed_lambda, reference.steps_path
"""

from dataclasses import dataclass
from pathlib import Path

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.run_folder import RunFolder


@dataclass(frozen=True)
class ReferenceRun:
    """What is read of it.

    Attributes:
        config: its settings.
        steps_path: its student's losses at each step.
    """

    config: Config
    steps_path: Path


def open_reference_run(flag: str, given: str, wanted: str) -> ReferenceRun:
    """The run that a flag names.

    Args:
        flag: its name, for messages.
        given: its value, the run's folder.
        wanted: the balance that such a run has, for messages, e.g. "--balance=fixed".

    Raises:
        UserError: where the folder is no finished run.
    """
    folder = RunFolder(Path(given))
    steps = folder.path / "student" / "steps.csv"
    for path in (folder.config_path, folder.report_path, steps):
        if not path.is_file():
            raise UserError(
                f"--{flag}={given} is no finished run: it has no {path.name}. Give what --run_dir "
                f"of a run with {wanted} named."
            )
    return ReferenceRun(Config.from_json(folder.config_path), steps)

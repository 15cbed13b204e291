"""A finished run of CANDLE, of which another run's balance reads something.

reference = open_reference_run("balance_floors", "runs/fixed", "--balance=fixed")
reference.config.balance.fixed_lambda, reference.steps_path

What is read is kept in the other run's folder, which has it from its first epoch on: the
reference may then be moved, continued or deleted.
"""

from dataclasses import dataclass
from pathlib import Path

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import read_json_object
from candle_tf.run_folder import RunFolder


@dataclass(frozen=True)
class ReferenceRun:
    """What is read of it.

    Attributes:
        config: its settings.
        steps_path: its student's losses at each step.
        report_path: its report.
    """

    config: Config
    steps_path: Path
    report_path: Path

    @property
    def split_hash(self) -> str:
        """Of the split that it was trained on; "" where its report does not say it.

        Raises:
            UserError: where the report is damaged.
        """
        split = read_json_object(self.report_path, "Restore it, or give another run.").get("split")
        return str(split.get("hash", "")) if isinstance(split, dict) else ""


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
    return ReferenceRun(Config.from_json(folder.config_path), steps, folder.report_path)


def kept_path(config: Config, name: str) -> Path:
    """The file in which a run keeps what it reads of another."""
    return Path(config.run.run_dir) / "student" / name


def has_kept(config: Config, name: str) -> bool:
    """Whether a run has begun with what is in this file.

    One that stopped before its first epoch may have left a file, of other settings.
    """
    return kept_path(config, name).is_file() and RunFolder(Path(config.run.run_dir)).has_begun


def path_at_start(config: Config, flag: str) -> str:
    """The value of a flag with which a run was begun; today's, where it has not begun."""
    record = RunFolder(Path(config.run.run_dir)).config_path
    given: str = config[flag]
    before: str = Config.from_json(record)[flag] if record.is_file() else given
    return before or given

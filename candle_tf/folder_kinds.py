"""What a folder is where a run's folder was asked for and none is there.

    describe_other_folder(Path("runs/pretrained"))
    # runs/pretrained is the folder of a pretraining, whose student has no classes yet. Train ...

Only names of files and two short files of JSON are read, so that a folder of a million images is
described at once.
"""

import re
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any

from candle_tf.errors import UserError
from candle_tf.files import read_json_object

_SETTINGS, _REPORT, _CARD = "config.json", "report.json", "student.json"
_WEIGHTS = "student.safetensors"
# Names in the settings of every run, and of every pretraining.
_OF_EVERY_RUN = frozenset({"dataset", "student", "teacher", "epochs", "seed", "run_dir"})
# `data.cached_arrays` writes it.
_CACHED = re.compile(r".+-[0-9a-f]{16}\.npy")
# Of a table (tools.run_table) they are in runs/.
_PLACES_OF_RUNS = (f"*/{_REPORT}", f"runs/*/{_REPORT}")
_SHOWN = 3


def holds_pretraining(settings: Mapping[str, Any]) -> bool:
    """Whether the contents of a config.json are those of a pretraining, and not of a run."""
    return "heldout_fraction" in settings and "method" not in settings


def holds_whole_settings(settings: Mapping[str, Any]) -> bool:
    """Whether these are all settings of a run or of a pretraining, of any version.

    A user's own file may hold a few settings alone, and config.json of another program none.
    """
    return settings.keys() >= _OF_EVERY_RUN


def is_run_folder(folder: Path) -> bool:
    """Whether a folder is that of a run or of a pretraining, by its settings."""
    return holds_whole_settings(_read(folder / _SETTINGS))


def describe_pretraining(path: Path) -> str:
    """What the folder of a pretraining is for; "" of every other path.

    Args:
        path: of a folder, or of a file in one.
    """
    folder = path.parent if path.is_file() else path
    card = _read(folder / _CARD)
    # The card of an export has labels, and no single file.
    is_card = card.get("file") == _WEIGHTS and "labels" not in card
    if not is_card and not holds_pretraining(_read(folder / _SETTINGS)):
        return ""
    weights = folder / _WEIGHTS
    finish = "" if weights.is_file() else "Finish it by the same command. "
    return (
        f"{folder} is the folder of a pretraining (python -m candle_tf.pretrain), whose student "
        f"has no classes yet. {finish}Train with its weights, python -m candle_tf.train ... "
        f"--student_weights={weights}, and give the folder of that run."
    )


def describe_other_folder(path: Path) -> str:
    """What a path is that is no run's folder, and what to give instead.

    Args:
        path: of a folder or a file that exists.

    Returns:
        One or two sentences; "" where nothing of this package is known in it, and of a run.
    """
    if told := describe_pretraining(path):
        return told
    if path.is_file():
        holder = _folder_of_run(path)
        return f"{path} is a file: give the folder of its run{holder}."
    if (path / _SETTINGS).is_file() or (path / _REPORT).is_file():
        return ""
    if isinstance(_read(path / _CARD).get("labels"), list):
        holder = _folder_of_run(path)
        return f"{path} is the export of a run: give the folder of the run itself{holder}."
    if runs := sorted(each.parent for each in chain(*map(path.glob, _PLACES_OF_RUNS))):
        more = f" and {len(runs) - _SHOWN} more" if len(runs) > _SHOWN else ""
        names = ", ".join(map(str, runs[:_SHOWN]))
        return f"{path} is no run, but holds finished runs: give one of {names}{more}."
    if any(_CACHED.fullmatch(each.name) for each in path.glob("*.npy")):
        return (
            f"{path} is a folder of cached arrays (--cache_dir), not of a run: give what --run_dir "
            "named."
        )
    return ""


def refuse_pretraining(path: Path) -> None:
    """Refuses the folder of a pretraining.

    Args:
        path: of a folder, or of a file in one.

    Raises:
        UserError: says what to do with its weights.
    """
    if told := describe_pretraining(path):
        raise UserError(told)


def _folder_of_run(path: Path) -> str:
    """E.g. ", runs/flowers" where the run that a path is in is known; else ""."""
    above = (path.resolve(), *path.resolve().parents)[1:3]
    return next((f", {folder}" for folder in above if (folder / _REPORT).is_file()), "")


def _read(path: Path) -> dict[str, Any]:
    """An object of JSON; empty where there is none that can be read."""
    try:
        return read_json_object(path, "")
    except UserError:
        return {}

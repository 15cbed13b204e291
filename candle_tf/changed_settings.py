"""Settings that may differ where a run is resumed, and what is told of those that do.

names = changeable_names(before, settings)      # settings: JSON-ready, by flag name
require_same(before, settings, names, Path("runs/digits"))
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from absl import logging

from candle_tf.data.settings import LISTS
from candle_tf.errors import UserError

# Paths do not change what a run computes: a moved folder can be resumed.
_PATHS = (
    "run_dir",
    "cache_dir",
    "data_dir",
    *LISTS,
    "class_counts",
    "split",
    "teacher_weights",
    "balance_floors",
    "balance_replay",
    "unlabelled_dir",
)
# Of these that hold only where a path was given and is given: without one a run computes something
# else. What is in them is compared where it is read.
_OPTIONAL = ("balance_floors", "balance_replay", "unlabelled_dir")
# What is done to a trained student can be done otherwise.
_OF_TRAINED_STUDENT = ("prior_correction", "select_epoch")
# A run with unreadable images says to try "skip". Once the split is saved it has no effect.
# Several devices give the results of one, to rounding.
# Of a recipe the settings are compared, each for itself. Files can be written later.
_CHANGEABLE = (
    *_PATHS,
    "on_bad_image",
    "near_duplicates",
    "strategy",
    "recipe",
    "export_student",
    "export_teacher",
    *_OF_TRAINED_STUDENT,
)
# Of these, what decides which outputs of the teacher a worker computes.
_SAME_FOR_WORKERS = ("select_epoch",)


def changeable_names(
    before: Mapping[str, Any], settings: Mapping[str, Any], first_stage_epochs: int | None = None
) -> tuple[str, ...]:
    """Names of the settings that may differ where something was trained; "epochs" if they grow.

    Args:
        before: those of the run.
        settings: those that resume it.
        first_stage_epochs: see `RunFolder.first_stage_epochs`.
    """
    optional = {name for name in _OPTIONAL if bool(before[name]) != bool(settings[name])}
    names = tuple(name for name in _CHANGEABLE if name not in optional)
    epochs = settings["epochs"]
    # 0 leaves them to the data. As many as are done also where an older version wrote down more,
    # and then refused them.
    if not epochs or epochs > before["epochs"] or epochs == first_stage_epochs:
        return (*names, "epochs")
    return names


def changeable_names_of_workers(
    chiefs: Mapping[str, Any], settings: Mapping[str, Any]
) -> tuple[str, ...]:
    """Names of the settings in which a worker may differ from the chief."""
    names = changeable_names(chiefs, settings)
    return tuple(name for name in names if name not in ("epochs", *_SAME_FOR_WORKERS))


def changed_names(before: Mapping[str, Any], settings: Mapping[str, Any]) -> set[str]:
    """Names of the settings that differ and that change what a run computes, or its records of the
    data: other images without labels may be in another folder."""
    same = set(_CHANGEABLE) - {"unlabelled_dir"}
    return {
        name for name, value in settings.items() if name not in same and before.get(name) != value
    }


def require_same(
    before: Mapping[str, Any],
    settings: Mapping[str, Any],
    changeable: Collection[str],
    path: Path,
) -> None:
    """Refuses to resume a run with other settings.

    Args:
        before: those of the run.
        settings: those that are to resume it.
        changeable: names of those that may differ.
        path: the run's folder.

    Raises:
        UserError: names all settings that differ and may not, with both values.
    """
    changed = [
        f"--{name} was {_as_text(before[name])} and is now {_as_text(value)}"
        for name, value in settings.items()
        if name not in changeable and before[name] != value
    ]
    if changed:
        raise UserError(
            f"{path} has a run with other settings: {'; '.join(changed)}. Give another "
            "--run_dir, or the settings of that run (config.json in it) to resume it."
        )


def _as_text(value: Any) -> str:
    return "empty" if value == "" else str(value)


def log_changes_of_trained_student(before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Warns of settings that a trained student is measured and exported by again."""
    for name in _OF_TRAINED_STUDENT:
        if before[name] != settings[name]:
            logging.warning(
                "--%s was %s and is now %s: the trained student is measured, exported and reported "
                "again, in place of the one before",
                *(name, before[name], settings[name]),
            )


def log_more_epochs(before: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Tells how the learning rate falls in a training of more epochs."""
    if before["epochs"] != settings["epochs"]:
        logging.info(
            "--epochs was %d and is now %d: the student's training continues after its last epoch. "
            "The learning rate follows the %s decay of a training of --epochs from there to 0: "
            "with twice as many epochs it begins again at half of --learning_rate",
            *(before["epochs"], settings["epochs"], settings["rate_decay"]),
        )

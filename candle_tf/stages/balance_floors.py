"""What --balance_floors stands for: the losses that a training with a fixed lambda ends at.

kl, fs = read_balance_floors(config)            # 0, 0 without one
kl, fs = keep_balance_floors(config)            # and they stay what they are in this run

Source: the excess loss of DoReMi (Xie et al., NeurIPS 2023) over that of a reference.
"""

import dataclasses
import json
from pathlib import Path

import numpy as np

from candle_tf.config import Config
from candle_tf.data.augment.settings import AugmentSettings
from candle_tf.data.splits.split import Split
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, write_atomically
from candle_tf.methods.settings import CalibrationSettings
from candle_tf.reporting.csv_columns import read_columns
from candle_tf.stages.reference_run import (
    has_kept,
    kept_path,
    open_reference_run,
    path_at_start,
)

_KEPT = "balance_floors.json"
# The part of the steps, the last of them, of which the losses are averaged.
_LAST = 0.1
# Settings that decide what the losses mean: of the images, of their views, of the teacher that runs
# on these, and of the losses themselves. Whether the split is the same is seen by its hash.
_SAME = (
    "dataset",
    "profile",
    "imbalance_factor",
    "validation_fraction",
    "resize",
    "seed",
    *(field.name for field in dataclasses.fields(AugmentSettings)),
    "views",
    "tail_views",
    "sampler",
    "sampler_start",
    "unlabelled_dir",
    "unlabelled_fraction",
    "unlabelled_views",
    "teacher",
    "teacher_weights",
    "teacher_layers",
    "teacher_view",
    "teacher_mode",
    "teacher_top_k",
    *(field.name for field in dataclasses.fields(CalibrationSettings)),
    "temperature",
    "logit_loss",
    "feature_loss",
    "source_temperature",
    "center_features",
)


def read_balance_floors(config: Config) -> tuple[float, float]:
    """KL and feature loss at the end of the run that --balance_floors names; 0 without one.

    Returns:
        The mean of the last tenth of the run's steps, each finite and at least 0; what
        `keep_balance_floors` wrote, where it did.

    Raises:
        UserError: where the folder is no finished run of `candle` with a fixed lambda, or one with
            other losses; where it is another folder than this run was begun with, and its losses
            end elsewhere.
    """
    given = config.balance.balance_floors
    if not given:
        return 0.0, 0.0
    if not has_kept(config, _KEPT):
        return _read_run(config)
    remedy = "Restore it, or give another --run_dir."
    values = read_json_object(kept_path(config, _KEPT), remedy)
    floors = float(values["kl"]), float(values["fs"])
    _require_same_floors(config, floors)
    return floors


def _require_same_floors(config: Config, floors: tuple[float, float]) -> None:
    """Refuses to resume a run by another path whose run ends with other losses.

    The path that the run was begun with need not be there any more, or may hold more epochs.
    """
    given = config.balance.balance_floors
    before = path_at_start(config, "balance_floors")
    if before == given:
        return
    now = _read_run(config)
    if now != floors:
        raise UserError(
            f"{config.run.run_dir} has a run with other settings: --balance_floors was {before} "
            f"and is now {given}: its losses end at {now[0]:.6g} and {now[1]:.6g}, and the run was "
            f"begun with {floors[0]:.6g} and {floors[1]:.6g}. Give --balance_floors={before}, also "
            "where that run is no longer there, or another --run_dir."
        )


def _read_run(config: Config) -> tuple[float, float]:
    given = config.balance.balance_floors
    place = f"--balance_floors={given}"
    run = open_reference_run("balance_floors", given, "--balance=fixed")
    before = run.config
    if before.training.method != "candle" or before.balance.balance != "fixed":
        raise UserError(
            f"{place} is a run of --method={before.training.method} and "
            f"--balance={before.balance.balance}; give one of candle with --balance=fixed, as its "
            "losses are what the adversary is measured by."
        )
    for name in _SAME:
        if before[name] != config[name]:
            raise UserError(
                f"{place} has --{name}={before[name]}, and this run {config[name]}: their losses "
                "cannot be compared. Give a run with the same."
            )
    return _last_losses(run.steps_path, place)


def refuse_other_split(config: Config, split: Split) -> None:
    """Refuses floors of a run with another split; a run that has begun keeps those that it has.

    Args:
        config: the run's settings.
        split: of the run.

    Raises:
        UserError: where --balance_floors names such a run.
    """
    given = config.balance.balance_floors
    if not given or has_kept(config, _KEPT):
        return
    there = open_reference_run("balance_floors", given, "--balance=fixed").split_hash
    if there != split.hash:
        raise UserError(
            f"--balance_floors={given} has another split: its losses are of other images, and "
            "cannot be compared. Give a run with the same, or --split with that run's split.json."
        )


def keep_balance_floors(config: Config) -> tuple[float, float]:
    """The same, written into this run's folder, which has them from then on."""
    kl, fs = read_balance_floors(config)
    if config.balance.balance_floors and not has_kept(config, _KEPT):
        content = json.dumps({"kl": kl, "fs": fs}) + "\n"
        write_atomically(kept_path(config, _KEPT), content.encode())
    return kl, fs


def _last_losses(path: Path, place: str) -> tuple[float, float]:
    try:
        columns = read_columns(path)
        last = max(1, round(_LAST * len(columns["kl"])))
        kl, fs = (float(columns[name][-last:].mean()) for name in ("kl", "fs"))
    except (KeyError, UserError):
        kl = fs = np.nan
    if not (np.isfinite([kl, fs]).all() and min(kl, fs) >= 0):
        raise UserError(
            f"{place}: {path.name} of its student does not end with a KL and a feature loss. The "
            "file is damaged: give another run."
        )
    return kl, fs

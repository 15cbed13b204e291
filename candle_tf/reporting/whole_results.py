"""report.json of a run for commands that read all of it, not only its figures.

results = read_whole_results(Path("runs/digits/report.json"), settings=("method", "student"))
"""

import math
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

from candle_tf.errors import UserError
from candle_tf.reporting.results import Results, read_results

# As report.json names them.
OPERATIONS = "OPs (binary multiply-adds / 64 + those in float)"
_LARGEST = 1e30


def read_whole_results(path: Path, settings: Collection[str]) -> Results:
    """Reads report.json, and refuses one that lacks what tables and figures are made of.

    What older versions did not write (norms, cost) may be absent, but not damaged.

    Args:
        path: of report.json.
        settings: names of those that are read, which must be there.

    Raises:
        UserError: where there is none, or it is damaged.
    """
    results = read_results(path)
    try:
        _check_config(results.config, settings)
        _check_split(results.split)
        _check_models(results)
    except ValueError as error:
        raise UserError(
            f"{path} is damaged ({error}). Start the run again to write it again."
        ) from error
    return results


def _is_number(value: Any) -> bool:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return is_number and 0 <= value <= _LARGEST and math.isfinite(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and _is_number(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_list_of(kind: Callable[[Any], bool], value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(kind, value))


def _are_sides(value: Any) -> bool:
    return _is_list_of(_is_count, value) and sum(value) > 0


# Settings that are read from a report, and what each is.
_SETTINGS: dict[str, Callable[[Any], bool]] = {
    **dict.fromkeys(("method", "student", "run_dir", "teacher", "optimizer"), _is_text),
    **dict.fromkeys(("width", "balance_tau", "balance_prior"), _is_number),
    "calibration_resolutions": _are_sides,
}


def _check_config(config: dict[str, Any], needed: Collection[str]) -> None:
    for name in needed:
        if name not in config:
            raise ValueError(f"config has no {name}")
    for name, is_kind in _SETTINGS.items():
        if name in config and not is_kind(config[name]):
            raise ValueError(f"{name} in config is not what it should be")


def _check_split(split: dict[str, Any]) -> None:
    counts, groups = split.get("train_counts"), split.get("groups")
    if not isinstance(split.get("hash"), str):
        raise ValueError("split has no hash")
    if not isinstance(counts, dict) or not counts or not all(map(_is_count, counts.values())):
        raise ValueError("train_counts in split are not the images of each class")
    # A class is text, and nothing else is compared with the names.
    if not isinstance(groups, dict) or not all(
        _is_list_of(_is_text, members) and counts.keys() >= set(members)
        for members in groups.values()
    ):
        raise ValueError("groups in split are not lists of its classes")


def _check_models(results: Results) -> None:
    classes = len(results.split["train_counts"])
    if "student" not in results.metrics:
        raise ValueError("metrics has no student")
    for name, metrics in results.metrics.items():
        if len(metrics.per_class) != classes:
            raise ValueError(f"metrics of {name} are not of {classes} classes")
    if "tflite" in results.metrics and "tflite" not in results.bytes:
        raise ValueError("bytes has no tflite")
    if not all(map(_is_count, results.bytes.values())):
        raise ValueError("a size in bytes is out of range")
    norms = results.norms
    if not isinstance(norms, dict) or not all(
        _is_list_of(_is_number, of_model) and len(of_model) == classes
        for of_model in norms.values()
    ):
        raise ValueError(f"norms are not those of {classes} classes")
    cost = results.export.get("cost", {OPERATIONS: 0})
    if not isinstance(cost, dict) or not _is_number(cost.get(OPERATIONS)):
        raise ValueError("cost in export is not what it should be")

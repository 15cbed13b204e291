"""What a table consists of, from its JSON file.

definition = read_definition(Path("configs/tables/pretrained.json"))
definition.cells[0].name                                # "scratch-25-candle-0"
"""

import itertools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import read_json_object
from tools.tables.cells import OF_EACH_CELL, Cell

_KEYS = {
    "about",
    "flagfile",
    "settings",
    "axes",
    "seeds",
    "compare",
    "leave_out",
    "choose",
    "reach",
    "curve",
}


@dataclass(frozen=True)
class Comparison:
    """Cells with the value `of` on an axis, against all cells that differ from them in it alone."""

    axis: str
    of: str


@dataclass(frozen=True)
class TableDefinition:
    """A table.

    Attributes:
        name: of its file.
        about: what is compared, in a sentence.
        axes: names of the axes, in order.
        cells: all combinations of the axes' values and seeds; all cells of a seed before the next.
        comparisons: differences that the summary tells.
        chooses: whether the table chooses settings: its summary holds figures of the validation
            subset and none of the test set.
        reach: a mean class accuracy in (0, 1) of which the summary tells when the validation
            subset first had it; 0 for none.
        curve: the axis along which trainings of a row differ in images seen alone; the plot is then
            accuracy against images seen. "" for bars.
    """

    name: str
    about: str
    axes: tuple[str, ...]
    cells: tuple[Cell, ...]
    comparisons: tuple[Comparison, ...]
    chooses: bool = False
    reach: float = 0.0
    curve: str = ""


def read_definition(path: Path) -> TableDefinition:
    """Reads a table's file.

    Raises:
        UserError: where it cannot be read, holds a key or setting that is none, or no cell.
    """
    remedy = "See configs/tables for examples."
    if not path.is_file():
        raise UserError(f"There is no table {path}. {remedy}")
    content = read_json_object(path, remedy)
    unknown = sorted(set(content) - _KEYS)
    if unknown or not {"flagfile", "axes", "seeds"} <= set(content):
        raise UserError(
            f"{path} holds {unknown[0]!r}, which is no key of a table. {remedy}"
            if unknown
            else f"{path} lacks flagfile, axes or seeds. {remedy}"
        )
    axes, seeds, shared = content["axes"], content["seeds"], content.get("settings", {})
    _check_axes(path, axes, seeds)
    rules, chooses = content.get("leave_out", []), content.get("choose", False)
    _check_left_out(path, axes, rules)
    if not isinstance(chooses, bool):
        raise UserError(f"{path} gives choose={chooses!r}; it is true or false.")
    reach = content.get("reach", 0.0)
    if not isinstance(reach, int | float) or not 0 <= reach < 1:
        raise UserError(f"{path} gives reach={reach!r}, which is no accuracy from 0 to 1.")
    curve = content.get("curve", "")
    if curve and (not isinstance(curve, str) or curve not in axes):
        raise UserError(
            f"{path} gives curve={curve!r}, which is no axis; one of {', '.join(axes)}."
        )
    _check_settings(f"{path}: settings", shared)
    cells = tuple(
        _cell(content["flagfile"], shared, axes, values, seed)
        for seed in seeds
        for values in itertools.product(*axes.values())
        if not _is_left_out(dict(zip(axes, values, strict=True)), rules)
    )
    _check_names(path, [cell.name for cell in cells])
    comparisons = tuple(_comparison(path, axes, each) for each in content.get("compare", []))
    return TableDefinition(
        path.stem,
        content.get("about", ""),
        tuple(axes),
        cells,
        comparisons,
        chooses,
        reach,
        curve,
    )


def _check_axes(path: Path, axes: Any, seeds: Any) -> None:
    if not isinstance(axes, dict) or not axes or not seeds:
        raise UserError(f"{path} has no axis or no seed.")
    if not isinstance(seeds, list) or not all(type(seed) is int for seed in seeds):
        raise UserError(f"{path} gives seeds={seeds!r}, which is no list of whole numbers.")
    for axis, values in axes.items():
        if not isinstance(values, dict):
            raise UserError(f"{path}: {axis} is no object of values, each with its settings.")
        for value, settings in values.items():
            _check_settings(f"{path}: {axis}={value}", settings)


def _check_left_out(path: Path, axes: dict[str, Any], rules: Any) -> None:
    """Refuses rules that would leave out nothing, or all."""
    if not isinstance(rules, list):
        raise UserError(f"{path}: leave_out is no list of rules, such as {{axis: value}}.")
    for rule in rules:
        if not isinstance(rule, dict) or not rule:
            raise UserError(f"{path}: leave_out has {rule!r}; expected {{axis: value}}.")
        for axis, value in rule.items():
            if not isinstance(value, str) or value not in axes.get(axis, {}):
                raise UserError(f"{path} leaves out {axis}={value}, which no axis has.")


def _check_names(path: Path, names: list[str]) -> None:
    """Each cell has a record and a run folder of its name."""
    if not names:
        raise UserError(f"{path} has no cell: an axis has no value, or all are left out.")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(
            f"{path} has two cells of the name {twice[0]}: a seed is given twice, or values of two "
            "axes make one name. Rename them."
        )


def _comparison(path: Path, axes: dict[str, Any], given: Any) -> Comparison:
    if not isinstance(given, dict) or set(given) != {"axis", "of"}:
        raise UserError(f'{path} compares {given!r}; expected {{"axis": ..., "of": ...}}.')
    comparison = Comparison(**given)
    texts = isinstance(comparison.axis, str) and isinstance(comparison.of, str)
    if not texts or comparison.of not in axes.get(comparison.axis, {}):
        raise UserError(f"{path} compares {comparison.axis}={comparison.of}, which no axis has.")
    return comparison


def _check_settings(place: str, settings: Any) -> None:
    if not isinstance(settings, dict):
        raise UserError(f"{place} is no object of settings.")
    wrong = sorted(set(settings) - set(Config.fields()))
    if wrong:
        raise UserError(f"{place} gives {wrong[0]!r}, which is no setting.")
    lost = sorted(set(settings) & set(OF_EACH_CELL))
    if lost:
        raise UserError(
            f"{place} gives {lost[0]!r}, which would be lost: a table gives it to each of its "
            f"cells. {OF_EACH_CELL[lost[0]]}"
        )


def _cell(
    flagfile: str,
    shared: dict[str, Any],
    axes: dict[str, Any],
    values: tuple[str, ...],
    seed: int,
) -> Cell:
    """Settings of a later axis win over those of an earlier one, and all over the shared ones."""
    chosen = dict(zip(axes, values, strict=True))
    settings = dict(shared)
    for axis, value in chosen.items():
        settings.update(axes[axis][value])
    return Cell(chosen, seed, flagfile, settings)


def _is_left_out(chosen: dict[str, str], rules: list[dict[str, str]]) -> bool:
    return any(all(chosen.get(axis) == value for axis, value in rule.items()) for rule in rules)

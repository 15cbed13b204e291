"""Records of finished cells that are kept beside the table's file, for all who run it.

    take_records(definition, folder, records, settings={})   # cells of the same settings are done
    keep_records(definition, folder, records)                # what is finished here, for others

A large table takes more hours than one machine has in a day. A record is used only where the
settings that the table and its flagfile give today are those that the cell was trained with, and
so those of a cell that it learns from: a changed table, flagfile or default runs its cells again.
"""

import json
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags, logging

from candle_tf import app
from candle_tf.config import Config, settings_of_older_runs
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, write_atomically
from tools.tables.cells import Cell, require_fields, setting_text
from tools.tables.definition import TableDefinition

# Settings that change no figure of a student.
_OF_FILES = ("export_student",)
# Settings that differ from one machine to the next; of files the name counts, and no folder.
_FOLDERS = ("run_dir", "cache_dir")
_FILES = (
    "data_dir",
    "teacher",
    "teacher_weights",
    "student_weights",
    "unlabelled_dir",
    "balance_floors",
    "balance_replay",
)
# What several of these are joined by; each of them counts.
_JOINED_BY = {"teacher": "+", "teacher_weights": ","}
# In a record in the folder of a run of a table: it was kept before, and is no cell of this run.
_COPY = "copy_of_a_kept_record"

_REMEDY = "Restore the file, or delete it to run the cell again."


def cell_config(cell: Cell, settings: Mapping[str, Any]) -> Config:
    """The settings that a cell's training reads from its command.

    Args:
        cell: of a table.
        settings: of all cells, by flag name; they win over the cell's own.

    Raises:
        UserError: for settings that a training refuses, and a flagfile that cannot be read.
    """
    return app.config_from_flags(_cell_flags(cell, settings))


def cell_config_without_data(cell: Cell, settings: Mapping[str, Any]) -> Config:
    """The same for a cell that is not trained here: where its data are need not be told.

    Raises:
        UserError: as `cell_config`.
    """
    values = _cell_flags(cell, settings)
    # These come with a library, and have no place.
    if values["dataset"].value == "digits":
        return app.config_from_flags(values)
    return app.config_from_flags(values, data_dir=values["data_dir"].value or "data")


def _cell_flags(cell: Cell, settings: Mapping[str, Any]) -> flags.FlagValues:
    values = flags.FlagValues()
    app.define_config_flags(values)
    given = {**cell.settings_in(Path()), **settings, "seed": cell.seed}
    pairs = [f"--{name}={setting_text(value)}" for name, value in given.items()]
    try:
        values(["candle_tf.train", f"--flagfile={cell.flagfile}", *pairs])
    except flags.Error as error:
        raise UserError(f"{cell.name}: {error}") from error
    return values


def take_records(
    definition: TableDefinition,
    folder: Path,
    records: Path,
    settings: Mapping[str, Any],
    wanted: Container[str] | None = None,
) -> None:
    """Copies the records of cells that have none in `folder`, where their settings are the same.

    Not of a cell whose run another one is now to read: a record is no network.

    Args:
        definition: the table.
        folder: of the run of the table.
        records: folder of kept records; it need not exist.
        settings: of all cells, as for `cell_config`.
        wanted: names of the cells that are to be trained if they have no record; None for all.

    Raises:
        UserError: for a record that is damaged.
    """
    cells = cells_by_name(definition)
    usable = {}
    for cell in definition.cells:
        kept = kept_path(records, cell)
        if cell.record_path(folder).exists() or not kept.is_file():
            continue
        if changed := _record_at(kept, cell, cells, settings)[1]:
            logging.info("%s is run again, as settings changed: %s", cell.name, ", ".join(changed))
        else:
            usable[cell.name] = kept
    needed = {
        name
        for cell in definition.cells
        if not (cell.record_path(folder).exists() or cell.name in usable)
        if wanted is None or cell.name in wanted
        for name in cell.needed_cells
    }
    taken = {name: kept for name, kept in usable.items() if name not in needed}
    for name, kept in taken.items():
        copy = {**read_json_object(kept, _REMEDY), _COPY: True}
        write_atomically(cells[name].record_path(folder), (json.dumps(copy) + "\n").encode())
    if taken:
        logging.info("%d cells were finished before: %s", len(taken), records)


def drop_copies(definition: TableDefinition, folder: Path) -> None:
    """Removes copies of kept records, which others may have taken the place of since.

    Args:
        definition: the table.
        folder: of the run of the table.

    Raises:
        UserError: for a record that is damaged.
    """
    for path in [cell.record_path(folder) for cell in definition.cells]:
        if path.exists() and _COPY in read_json_object(path, _REMEDY):
            # Where the file system has no locks, another command may have removed it.
            path.unlink(missing_ok=True)


def cells_by_name(definition: TableDefinition) -> dict[str, Cell]:
    """The cells of a table."""
    return {cell.name: cell for cell in definition.cells}


def find_record(
    cell: Cell,
    cells: Mapping[str, Cell],
    folder: Path,
    records: Path | None,
    settings: Mapping[str, Any],
) -> tuple[dict[str, Any] | None, str]:
    """The record of a finished cell: that of the run of the table, or a kept one.

    Args:
        cell: of a table.
        cells: of the table, by name.
        folder: of the run of the table; it need not exist.
        records: folder of kept records; it need not exist; None for none.
        settings: of all cells, as for `cell_config`.

    Returns:
        The record and ""; or None and why there is none: "not run", or the settings that changed.

    Raises:
        UserError: for a record that is damaged.
    """
    why = "not run"
    for path in (cell.record_path(folder), *([kept_path(records, cell)] if records else [])):
        if path.is_file():
            record, changed = _record_at(path, cell, cells, settings)
            if records and _COPY in record:  # the kept record may be a later one
                continue
            require_fields(path, record)
            if not changed:
                return record, ""
            why = f"run with other settings: {', '.join(changed)}"
    return None, why


def refuse_other_settings(
    definition: TableDefinition, folder: Path, settings: Mapping[str, Any]
) -> None:
    """Refuses a folder with records of cells that were trained with other settings than today's.

    Raises:
        UserError: with the cell and the settings.
    """
    cells = cells_by_name(definition)
    for cell in definition.cells:
        path = cell.record_path(folder)
        if path.exists():
            _refuse_changes(path, _record_at(path, cell, cells, settings)[1])


def is_trained(
    cell: Cell, cells: Mapping[str, Cell], folder: Path, settings: Mapping[str, Any]
) -> bool:
    """Whether the folder has the record of a cell that was run there: no copy of a kept one.

    Args:
        cell: of a table.
        cells: of the table, by name.
        folder: of the run of the table.
        settings: of all cells, as for `cell_config`.

    Raises:
        UserError: where the cell was run with other settings, and for a record that is damaged.
    """
    path = cell.record_path(folder)
    if not path.exists():
        return False
    record, changed = _record_at(path, cell, cells, settings)
    if _COPY in record:
        return False
    _refuse_changes(path, changed)
    return True


def refuse_begun_with_other_settings(
    cells: Iterable[Cell], folder: Path, settings: Mapping[str, Any]
) -> None:
    """Refuses to resume trainings that were stopped, and had other settings than today's.

    Their first epochs would have had another schedule.

    Args:
        cells: that are to be run.
        folder: of the run of the table.
        settings: of all cells, as for `cell_config`.

    Raises:
        UserError: with the run and the settings.
    """
    for cell in cells:
        run = cell.run_path(folder)
        if (run / "config.json").is_file() and any(run.glob("*/checkpoints/progress.json")):
            before = read_json_object(run / "config.json", "Delete the run to begin it again.")
            _refuse_changes(run, _names_of_changes(before, cell_config(cell, settings).to_dict()))


def _refuse_changes(place: Path, changed: Sequence[str]) -> None:
    if changed:
        raise UserError(
            f"{place} is of a training with other settings: {', '.join(changed)}. Give a "
            "--run_dir of its own for these settings, or the settings of then."
        )


def _record_at(
    path: Path, cell: Cell, cells: Mapping[str, Cell], settings: Mapping[str, Any]
) -> tuple[dict[str, Any], list[str]]:
    """A record, and the names of settings that it has and the cell does not have today; so of the
    records beside it of cells that it learned from."""
    record = read_json_object(path, _REMEDY)
    config = record.get("config")
    if not isinstance(config, dict) or "data_dir" not in config:
        raise UserError(f"{path} is damaged: it holds no settings of a training. {_REMEDY}")
    # Where the data are is told only to train a cell.
    changed = changed_settings(
        record, cell_config(cell, {"data_dir": config["data_dir"], **settings})
    )
    others = {name: each for name, each in cells.items() if name != cell.name}
    for name in cell.needed_cells:
        needed = path.with_name(f"{name}.json")
        if name in others and needed.is_file():
            of_needed = _record_at(needed, others[name], others, settings)[1]
            changed += [f"{each} of {name}" for each in of_needed]
    return record, changed


def changed_settings(record: Mapping[str, Any], config: Config) -> list[str]:
    """Names of settings with another value in the record.

    One that the record does not know, as the cell was trained before there was such a setting,
    had the value that is the default today, or the one of `config.OLDER_VALUES`.

    Args:
        record: of a finished cell.
        config: what the cell would be trained with today.
    """
    return _names_of_changes(record["config"], config.to_dict())


def _names_of_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """Names of today's settings with another value."""
    first, second = without_places(_complete(before)), without_places(_complete(now))
    names = [name for name in Config().to_dict() if name not in _OF_FILES]
    return [name for name in names if first[name] != second[name]]


def _complete(settings: Mapping[str, Any]) -> dict[str, Any]:
    """With what a setting was that there was not yet."""
    return {**settings_of_older_runs(), **settings}


def without_places(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings without folders of this machine."""
    names = {name: _file_names(name, settings[name]) for name in _FILES if settings.get(name)}
    return {**settings, **names, **dict.fromkeys(_FOLDERS, "")}


def _file_names(setting: str, value: str) -> str:
    mark = _JOINED_BY.get(setting)
    pieces = value.split(mark) if mark else [value]
    return (mark or "").join(Path(piece).name for piece in pieces)


def keep_records(definition: TableDefinition, folder: Path, records: Path) -> None:
    """Writes what is finished in `folder` to `records`, without places of this machine.

    Raises:
        UserError: before any is written, where a kept record is of other settings.
    """
    cells = [cell for cell in definition.cells if cell.record_path(folder).exists()]
    read = [(cell, read_json_object(cell.record_path(folder), _REMEDY)) for cell in cells]
    found = [(cell, record) for cell, record in read if _COPY not in record]
    for cell, record in found:
        _refuse_to_replace(kept_path(records, cell), record["config"])
    for cell, record in found:
        kept = {**record, "config": without_places(record["config"])}
        write_atomically(kept_path(records, cell), (json.dumps(kept) + "\n").encode())


def refuse_to_replace_records(
    cells: Sequence[Cell], records: Path, settings: Mapping[str, Any]
) -> None:
    """Refuses, before hours are spent, cells that could not be kept once they have run.

    Args:
        cells: that are to be run.
        records: folder of kept records; it need not exist.
        settings: of all cells, as for `cell_config`.

    Raises:
        UserError: where a kept record of one of the cells is of other settings.
    """
    for cell in cells:
        _refuse_to_replace(kept_path(records, cell), cell_config(cell, settings).to_dict())


def _refuse_to_replace(path: Path, config: Mapping[str, Any]) -> None:
    if not path.is_file():
        return
    before, now = _complete(read_json_object(path, _REMEDY)["config"]), _complete(config)
    told = ", ".join(
        f"{name}={setting_text(before[name])}, now {setting_text(now[name])}"
        for name in _names_of_changes(before, now)
    )
    if told:
        raise UserError(
            f"--keep_records would replace {path}, of a training with other settings: {told}. Give "
            "another folder as --records, or delete the record first."
        )


def require_records(folder: Path) -> None:
    """Refuses a mistyped folder of kept records, before their cells are trained again.

    Raises:
        UserError: where there is no such folder.
    """
    if not folder.is_dir():
        raise UserError(
            f"--records={folder} is no folder. Leave it out for the records beside the table's "
            "file; none is for no kept records."
        )


def kept_folder(table: Path) -> Path:
    """The folder of kept records of a table's file."""
    return table.parent / "records" / table.stem


def kept_path(records: Path, cell: Cell) -> Path:
    """The kept record of a cell."""
    return records / f"{cell.name}.json"

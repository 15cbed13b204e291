"""Trains every cell of a table, and writes the table.

    python -m tools.run_table --table=configs/tables/pretrained.json --data_dir=caltech101.zip

A table's file holds a flagfile, "settings" of all cells, axes (name -> value -> settings of its
own) and seeds; its cells are all combinations. In settings, {runs} is the folder of the table's
runs and {seed} the seed: "teacher": "run:{runs}/ROW-{seed}" learns from another cell, which has to
come before. With "choose" true the table has figures of the validation subset alone; with "reach",
e.g. 0.45, it tells when that subset's mean class accuracy was first as high. Each cell is a
training in a process and a run folder of its own, and leaves cells/NAME.json: settings, seed,
split, versions, hours, images seen, history, figures. What is finished is not run again: the same
command resumes, and --cells=0 only writes the table. With
--processes=2 two cells train at once, each on half of the CPUs. Where one fails, those that do not
need it are run all the same; the exit code is 2 then. Cells whose records are kept in
configs/tables/records, with the same settings, are not run; --keep_records adds what is finished.
Several commands may share a --run_dir, such as with an --only each: a cell that one of them runs is
refused to the others, and one that was finished meanwhile is not run again.
"""

import json
import sys
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from absl import flags, logging

from candle_tf import app
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.reporting.results import read_results
from tools.tables.cells import Cell, collect_cell, setting_text, settings_of_all_cells
from tools.tables.definition import TableDefinition, read_definition
from tools.tables.locks import lock_cell, table_lock
from tools.tables.processes import failure_text, run_commands
from tools.tables.records import (
    cell_config,
    cells_by_name,
    drop_copies,
    is_trained,
    keep_records,
    kept_folder,
    refuse_begun_with_other_settings,
    refuse_other_settings,
    refuse_to_replace_records,
    require_records,
    take_records,
)
from tools.tables.summary import write_against, write_summary

# Exit code of a command that a `UserError` ended; an export that is refused is one.
_USER_ERROR = 2


def main(
    definition: TableDefinition,
    folder: Path,
    settings: dict[str, Any],
    only: str = "",
    most: int = -1,
    processes: int = 1,
    records: Path | None = None,
    keep: bool = False,
    against: str = "",
) -> None:
    """Runs what is missing, then writes table.md, table.csv and table.png.

    Args:
        definition: the table.
        folder: of cells and table.
        settings: of all cells, by flag name; they win over the table's.
        only: runs only cells with this in their names.
        most: runs at most so many; -1 for all.
        processes: cells at once.
        records: folder of kept records, see `tools.tables.records`; None for none.
        keep: writes what is finished to `records`.
        against: a row that is told beside each other one, in place of all pairs, unless cells fail.

    Raises:
        UserError: before any is run, for settings of a cell that a training refuses, cells of
            other settings in the folder, an `only` that no cell has, a teacher that is not there
            and, with `keep`, kept records of other settings; at the end, where a training failed.
    """
    if not any(only in cell.name for cell in definition.cells):
        raise UserError(f"--only={only} is in no cell's name, such as {definition.cells[0].name}.")
    known = dict.fromkeys(cell.row for cell in definition.cells)
    if against and against not in known:
        raise UserError(f"--against={against} is no row of the table; one of {', '.join(known)}.")
    with table_lock(folder):
        drop_copies(definition, folder)
        refuse_other_settings(definition, folder, settings)
        if records:
            wanted = {cell.name for cell in definition.cells if most and only in cell.name}
            take_records(definition, folder, records, settings, wanted)
        missing = [
            cell
            for cell in definition.cells
            if only in cell.name and not cell.record_path(folder).exists()
        ]
    missing = missing[:most] if most >= 0 else missing
    for cell in missing:
        _check_cell(cell, cell_config(cell, settings), definition.chooses)
    refuse_begun_with_other_settings(missing, folder, settings)
    if keep and records:
        refuse_to_replace_records(missing, records, settings)
    _require_needed_cells(missing, folder, processes)
    failures = _run_cells(definition, missing, folder, settings, processes)
    with table_lock(folder):
        summary = write_summary(definition, folder)
        if keep and records:
            keep_records(definition, folder, records)
        # Where cells failed, the row may be of them: why they did is told, and not that it is none.
        print(summary if failures or not against else write_against(definition, folder, against))
    if failures:
        raise UserError(
            f"{len(failures)} of {len(missing)} cells are not done. {' '.join(failures.values())} "
            "Start the table again to resume it; --only=NAME runs cells with NAME in their names "
            'alone, and "leave_out" in the table\'s file is for rows that cannot be run.'
        )


def _check_cell(cell: Cell, config: Config, chooses: bool) -> None:
    """Refuses what a training accepts and its table cannot use."""
    if not config.training.epochs:
        raise UserError(
            f"{cell.name} has --epochs=0, which depends on the number of images: a table says "
            "how many epochs are compared. Give epochs in its settings, or --set=epochs=..."
        )
    # A saved split may have validation images all the same.
    if chooses and not config.data.validation_fraction and not config.data.split:
        raise UserError(
            f"{cell.name} has --validation_fraction=0, and so no validation images, by which its "
            'table chooses ("choose": true). Give a validation_fraction above 0 in its settings, '
            "or --set=validation_fraction=0.2."
        )


def _run_cells(
    definition: TableDefinition,
    cells: list[Cell],
    folder: Path,
    settings: dict[str, Any],
    processes: int,
) -> dict[str, str]:
    """Trains cells, and writes the record of each; why one was not trained, by its name."""
    # What is chosen by validation images needs no files.
    first = {"export_student": "off"} if definition.chooses else {}
    commands = [_command(cell, folder, settings, first) for cell in cells]
    logs = [folder / "logs" / f"{cell.name}.log" for cell in cells]
    logging.info("%d cells to run: %s", len(cells), ", ".join(cell.name for cell in cells))
    failures: dict[str, str] = {}
    begun: dict[int, _Begun] = {}

    def can_begin(place: int) -> bool:
        cell = cells[place]
        if failed := ", ".join(sorted(failures.keys() & set(cell.needed_cells))):
            failures[cell.name] = f"{cell.name} reads the run of {failed}, so it was not begun."
            return False
        try:
            begun[place] = _begin_cell(definition, cell, folder, settings)
        except UserError as error:
            failures[cell.name] = str(error)
            logging.error("--- %s", error)
            return False
        return not begun[place].is_trained

    try:
        # Closed, and with it what runs, also where a record cannot be written.
        with closing(run_commands(commands, logs, processes, can_begin)) as all_ended:
            for done, (place, code) in enumerate(all_ended, 1):
                cell = cells[place]
                if code is None:
                    if place in begun:
                        logging.info("--- %s was finished by another command", cell.name)
                elif _end_cell(definition, cell, folder, code, begun[place].report):
                    logging.info("--- %d of %d cells done: %s", done, len(cells), cell.name)
                else:
                    failures[cell.name] = failure_text(code, commands[place], logs[place])
                    logging.error("--- %s", failures[cell.name])
                if place in begun:
                    begun[place].release()
    finally:
        for each in begun.values():
            each.release()
    return failures


@dataclass(frozen=True)
class _Begun:
    """A cell whose turn has come.

    Attributes:
        lock: by which no other command runs it; None where the file system has no locks.
        report: version of the report that was there before.
        is_trained: whether another command has finished it since this one began.
    """

    lock: IO[str] | None
    report: tuple[int, int] | None
    is_trained: bool

    def release(self) -> None:
        """Leaves the cell to other commands."""
        if self.lock:
            self.lock.close()


def _begin_cell(
    definition: TableDefinition, cell: Cell, folder: Path, settings: dict[str, Any]
) -> _Begun:
    """Takes a cell for this command.

    Raises:
        UserError: where another command runs it, or has finished it with other settings.
    """
    with ExitStack() as held, table_lock(folder):
        lock = lock_cell(cell, folder)
        if lock:
            held.enter_context(lock)
        trained = is_trained(cell, cells_by_name(definition), folder, settings)
        held.pop_all()
    return _Begun(lock, _report_version(cell, folder), trained)


def _end_cell(
    definition: TableDefinition,
    cell: Cell,
    folder: Path,
    code: int,
    before: tuple[int, int] | None,
) -> bool:
    """Writes the record of a cell whose training has ended; False where it failed.

    Args:
        definition: the table.
        cell: of the training.
        folder: of the table.
        code: with which it ended.
        before: version of the report that was there before it.
    """
    refused = _refusal(cell, folder, code, before)
    if code and not refused:
        return False
    if refused:
        logging.warning("%s has no export, as it was refused: %s", cell.name, refused)
    record = collect_cell(cell, folder)
    with table_lock(folder):
        write_atomically(cell.record_path(folder), (json.dumps(record) + "\n").encode())
        write_summary(definition, folder)
    return True


def _report_version(cell: Cell, folder: Path) -> tuple[int, int] | None:
    """What is another for each report that a run writes; None where there is none."""
    report = cell.run_path(folder) / "report.json"
    if not report.exists():
        return None
    found = report.stat()
    return found.st_mtime_ns, found.st_ino


def _refusal(cell: Cell, folder: Path, code: int, before: tuple[int, int] | None) -> str:
    """Why the export of a run was refused that a training has finished but for it; else "".

    Args:
        cell: of the run.
        folder: of the table.
        code: with which the training ended.
        before: version of the report that was there before it. An export that was refused earlier
            is no reason for a training that has ended before its own report.
    """
    version = _report_version(cell, folder)
    if code != _USER_ERROR or version is None or version == before:
        return ""
    return read_results(cell.run_path(folder) / "report.json").refused


def _require_needed_cells(cells: list[Cell], folder: Path, processes: int) -> None:
    """Refuses cells that read the run of one that is neither trained nor trained before them."""
    before: set[str] = set()
    for cell in cells:
        for name in cell.needed_cells:
            if (folder / "runs" / name / "report.json").exists():
                continue
            if name not in before:
                record = folder / "cells" / f"{name}.json"
                delete = f"delete {record}, which is no run, and " if record.exists() else ""
                raise UserError(
                    f"{cell.name} reads the run of {name}, which is not there: {delete}run it "
                    f"first, by --only={name} --records=none."
                )
            if processes > 1:
                raise UserError(
                    f"{cell.name} reads the run of {name}, which has to be trained before: run "
                    f"that first, by --only={name}, or give --processes=1."
                )
        before.add(cell.name)


def _command(
    cell: Cell, folder: Path, settings: dict[str, Any], first: dict[str, Any]
) -> list[str]:
    """A process of its own: what one training leaves in memory does not reach the next."""
    given = {
        **first,
        **cell.settings_in(folder),
        **settings,
        "seed": cell.seed,
        "run_dir": cell.run_path(folder),
        "cache_dir": folder / "cache",
    }
    command = [sys.executable, "-m", "candle_tf.train", f"--flagfile={cell.flagfile}"]
    return command + [f"--{name}={setting_text(value)}" for name, value in given.items()]


def _run(_: list[str]) -> None:
    values = flags.FLAGS
    if not values.table:
        raise UserError("--table is missing: a file of configs/tables.")
    definition = read_definition(Path(values.table))
    folder = Path(values.run_dir or f"runs/tables/{definition.name}")
    settings = settings_of_all_cells(values.set)
    if values.data_dir:
        settings["data_dir"] = values.data_dir
    records = Path(values.records or kept_folder(Path(values.table)))
    known = None if values.records == "none" else records
    keep = values.keep_records
    if keep and not known:
        raise UserError("--keep_records contradicts --records=none, which keeps none.")
    if known and values.records and not keep:
        require_records(known)
    main(
        definition, folder, settings, values.only, values.cells, values.processes, known, keep,
        values.against,
    )  # fmt: skip


if __name__ == "__main__":
    flags.DEFINE_string("table", "", "the table's file, of configs/tables")
    flags.DEFINE_string("data_dir", "", "as of candle_tf.train, for all cells")
    flags.DEFINE_string("run_dir", "", "folder of cells and table; runs/tables/NAME if empty")
    flags.DEFINE_list("set", [], "settings of all cells, name=value")
    flags.DEFINE_string("only", "", "run only cells with this in their names")
    flags.DEFINE_string(
        "against",
        "",
        "print this row minus each row that differs from it in one axis, such as "
        "pretrained-candle, in place of the whole table, and write it to against-ROW.md",
    )
    flags.DEFINE_string(
        "records",
        "",
        "folder of kept records: cells that have one with the same settings are not run; "
        "records/NAME beside the table's file if empty, none to run all cells",
    )
    flags.DEFINE_bool(
        "keep_records",
        False,
        "write finished cells' records to --records; one of other settings there is not replaced",
    )
    flags.DEFINE_integer("cells", -1, "run at most this many; -1 for all", lower_bound=-1)
    flags.DEFINE_integer(
        "processes", 1, "cells that train at once, each on CPUs of its own", lower_bound=1
    )
    app.run(_run, needs_arguments=True, resumes=True)

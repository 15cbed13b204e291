"""By how much CANDLE is better than the best other method, in several tables and on average.

    python -m tools.compare_tables --start=scratch --of=candle,candle_patient \
        --tables=configs/tables/t1_caltech101.json,configs/tables/t2_cifar100_if100.json

Trains nothing: it reads the cells that tools.run_table has finished, and kept records. For each
table it tells the mean class accuracy of a method of CANDLE minus that of the best method that is
not distilled, and of the best other distilled one, in all and by shot group, with 95 % intervals;
then their averages over the tables. The best other method is chosen on validation images, and so is
each table's of several rows of CANDLE. What was not run is told cell by cell.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from candle_tf import app
from candle_tf.errors import UserError
from tools.tables.cells import settings_of_all_cells
from tools.tables.definition import TableDefinition, read_definition
from tools.tables.margins import STARTS, read_methods, write_margins
from tools.tables.records import kept_folder, require_records


def main(
    definitions: Sequence[TableDefinition],
    folder: Path,
    records: Mapping[str, Path],
    settings: Mapping[str, Mapping[str, Any]],
    start: str,
    of: Sequence[str],
) -> None:
    """Prints the comparison, and writes comparison_START_OF.md and .csv.

    Args:
        definitions: the tables.
        folder: with a folder of each table's run, by name; the comparison is written there.
        records: folders of kept records, by table; tables without one have none.
        settings: of all cells of each table, by flag name; they win over the table's.
        start: one of `margins.STARTS`.
        of: the method of CANDLE that is compared; of several each table's best on validation
            images.

    Raises:
        UserError: see `margins.read_methods`.
    """
    tables = [
        read_methods(
            each, folder / each.name, records.get(each.name), settings[each.name], start, of
        )
        for each in definitions
    ]
    print(write_margins(tables, start, folder / f"comparison_{start}_{'+'.join(of)}"))


def settings_by_table(given: Sequence[str], tables: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Settings of all cells of each table, of texts "epochs=3" or, for one table, "t1:epochs=3".

    Raises:
        UserError: for a table that is not compared, and as `settings_of_all_cells`.
    """
    texts: dict[str, list[str]] = {table: [] for table in tables}
    for each in given:
        # A value may have a colon, a name has none.
        place, colon, _ = each.partition("=")[0].rpartition(":")
        if colon and place not in texts:
            raise UserError(f"--set={each} is for {place}, which is none of {', '.join(tables)}.")
        for table in [place] if colon else tables:
            texts[table].append(each[len(place) + 1 :] if colon else each)
    return {table: settings_of_all_cells(settings) for table, settings in texts.items()}


def _run(_: list[str]) -> None:
    values = flags.FLAGS
    paths = [Path(each) for each in values.tables]
    if not values.of:
        raise UserError("--of is empty; give a method of CANDLE, by its name in the tables.")
    if not paths:
        raise UserError("--tables is missing: files of configs/tables, separated by commas.")
    definitions = [read_definition(path) for path in paths]
    names = [each.name for each in definitions]
    if len(set(names)) < len(names):
        raise UserError(f"--tables={','.join(values.tables)} has two tables of one name.")
    records = {
        path.stem: Path(values.records) / path.stem if values.records else kept_folder(path)
        for path in paths
        if values.records != "none"
    }
    if values.records not in ("", "none"):
        require_records(Path(values.records))
    settings = settings_by_table(values.set, names)
    main(definitions, Path(values.run_dir), records, settings, values.start, values.of)


if __name__ == "__main__":
    flags.DEFINE_list("tables", [], "the tables' files, of configs/tables")
    flags.DEFINE_enum("start", STARTS[0], STARTS, "cells from random, or from pretrained weights")
    flags.DEFINE_list(
        "of",
        ["candle"],
        "the method of CANDLE, by its name in the tables; of several, separated by commas, each "
        "table's is the best on validation images",
    )
    flags.DEFINE_string(
        "run_dir",
        "runs/tables",
        "folder with a folder of each table's cells, by its name; the comparison is written there",
    )
    flags.DEFINE_string(
        "records",
        "",
        "folder with a folder of each table's kept records; records beside each table's file if "
        "empty, none for no kept records",
    )
    flags.DEFINE_list(
        "set",
        [],
        "settings of all cells, name=value, as of tools.run_table; TABLE:name=value for those of "
        "one table",
    )
    app.run(_run, needs_arguments=True)

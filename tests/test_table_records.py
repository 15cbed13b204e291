"""Which records of a table are used, and which trainings are resumed."""

import csv
import json
from pathlib import Path

import pytest

from candle_tf.config import Config
from candle_tf.errors import UserError
from tests.command import start
from tests.test_run_table import definition_file
from tools import run_table
from tools.tables.cells import settings_of_all_cells
from tools.tables.definition import TableDefinition, read_definition
from tools.tables.records import (
    cell_config,
    changed_settings,
    drop_copies,
    find_record,
    keep_records,
    kept_path,
    take_records,
)
from tools.tables.summary import write_summary


def taught_table(folder: Path, **first) -> TableDefinition:
    """A cell, and one that learns from it."""
    methods = {
        "first": {"method": "cross_entropy", **first},
        "second": {"method": "plain_distillation", "teacher": "run:{runs}/first-{seed}"},
    }
    path = definition_file(folder, axes={"method": methods}, compare=[], choose=True)
    return read_definition(path)


def keep(definition: TableDefinition, records: Path) -> None:
    """Records of all cells, as they would be kept."""
    records.mkdir()
    for cell in definition.cells:
        content = {
            **{name: [] for name in ("values", "history", "labels", "correct", "shot_groups")},
            **{"seed": cell.seed, "split": "", "figures": {}, "hours": 0, "images_seen": 1},
            "config": cell_config(cell, {}).to_dict(),
        }
        kept_path(records, cell).write_text(json.dumps(content))


def kept_table(folder: Path) -> tuple[TableDefinition, Path, Path]:
    """The table, the folder of its kept records, and one of a run without any."""
    definition, records = taught_table(folder), folder / "records"
    keep(definition, records)
    return definition, records, folder / "out"


def test_a_cell_is_run_again_where_the_one_that_it_learns_from_changed(tmp_path):
    records, folder = tmp_path / "records", tmp_path / "out"
    keep(taught_table(tmp_path), records)
    changed = taught_table(tmp_path, epochs=9)
    cells = {cell.name: cell for cell in changed.cells}
    _, why = find_record(cells["second-3"], cells, folder, records, {})
    assert why == "run with other settings: epochs of first-3"
    take_records(changed, folder, records, {})
    assert not (folder / "cells").exists()


def test_a_record_that_a_cell_of_another_command_needs_is_shown(tmp_path):
    definition, records, folder = kept_table(tmp_path)
    first, second = definition.cells
    kept_path(records, second).unlink()
    # To train the second, the first's network is needed, and not its record.
    take_records(definition, folder, records, {}, wanted={"first-3", "second-3"})
    assert not first.record_path(folder).exists()
    take_records(definition, folder, records, {}, wanted=set())
    assert first.record_path(folder).exists()


def mean(path: Path) -> float:
    return json.loads(path.read_text())["figures"]["student"]["mean"]


def test_a_kept_record_that_was_replaced_is_the_one_that_counts(tmp_path):
    definition, records, folder = kept_table(tmp_path)
    cell = definition.cells[0]
    kept = kept_path(records, cell)
    before = {**json.loads(kept.read_text()), "figures": {"student": {"mean": 0.25}}}
    kept.write_text(json.dumps(before))
    take_records(definition, folder, records, {})
    assert mean(cell.record_path(folder)) == 0.25
    after = {**before, "figures": {"student": {"mean": 0.5}}}
    kept.write_text(json.dumps(after))
    # What was copied is no figure of this run: it does not go back.
    keep_records(definition, folder, records)
    assert mean(kept) == 0.5
    drop_copies(definition, folder)
    take_records(definition, folder, records, {})
    assert mean(cell.record_path(folder)) == 0.5
    # What was run here stays, and is kept.
    cell.record_path(folder).write_text(json.dumps(before))
    drop_copies(definition, folder)
    keep_records(definition, folder, records)
    assert mean(kept) == 0.25


@pytest.mark.parametrize(
    ("setting", "value", "same", "other"),
    [
        ("teacher", "efficientnet_lite0+run:a/first-3", "efficientnet_lite0+run:b/first-3",
         "efficientnet_lite2+run:a/first-3"),
        ("teacher", "efficientnet_lite0+run:a/first-3", "efficientnet_lite0+run:b/c/first-3",
         "run:a/first-3"),
        ("teacher_weights", "a/x.h5,b/y.h5", "x.h5,y.h5", "a/z.h5,b/y.h5"),
    ],
)  # fmt: skip
def test_each_of_several_teachers_counts(setting, value, same, other):
    record = {"config": {**Config().to_dict(), setting: value}}
    for text, changes in ((same, []), (other, [setting])):
        assert changed_settings(record, Config(**{setting: text})) == changes


@pytest.mark.parametrize("joined", ["efficientnet_lite0+{}", "{}+efficientnet_lite0"])
def test_a_cell_with_joined_teachers_needs_the_run_of_one(tmp_path, joined):
    methods = {
        "first": {"method": "cross_entropy"},
        "second": {
            "method": "plain_distillation",
            "teacher": joined.format("run:{runs}/first-{seed}"),
        },
    }
    path = definition_file(tmp_path, axes={"method": methods}, compare=[], choose=True)
    assert read_definition(path).cells[1].needed_cells == ["first-3"]


def test_a_training_that_was_stopped_is_not_resumed_under_other_settings(tmp_path):
    definition = read_definition(definition_file(tmp_path))
    cell, folder = definition.cells[0], tmp_path / "out"
    progress = cell.run_path(folder) / "student" / "checkpoints" / "progress.json"
    progress.parent.mkdir(parents=True)
    before = cell_config(cell, {"epochs": "7"})
    before.to_json(cell.run_path(folder) / "config.json")
    progress.write_text("{}")
    with pytest.raises(UserError, match=r"balanced_softmax-3 is of a training with .*: epochs"):
        run_table.main(definition, folder, {}, only=cell.name)
    # No cell is run here, so none is refused.
    run_table.main(definition, folder, {}, most=0)


@pytest.mark.parametrize("content", ["{}", '{"config": {}}', '{"config": []}'])
def test_a_damaged_record_is_named(tmp_path, content):
    definition = read_definition(definition_file(tmp_path))
    path = definition.cells[0].record_path(tmp_path)
    path.parent.mkdir()
    path.write_text(content)
    with pytest.raises(UserError, match=r"balanced_softmax-3.json is damaged"):
        run_table.main(definition, tmp_path, {}, most=0)


def test_what_a_table_gives_to_each_cell_is_no_setting_of_all(tmp_path):
    with pytest.raises(UserError, match=r"--set=seed=9 would be lost"):
        settings_of_all_cells(["seed=9"])
    definition = read_definition(definition_file(tmp_path))
    with pytest.raises(UserError, match="balanced_softmax-3 has --epochs=0"):
        run_table.main(definition, tmp_path, {"epochs": "0"})


def write_record(definition: TableDefinition, place: int, folder: Path, **changes) -> None:
    """The record of a finished cell, without images of its own."""
    cell = definition.cells[place]
    figures = {"student": {"mean": 0.5, "groups": {}}}
    record = {"values": cell.values, "seed": cell.seed, "figures": figures, "images_seen": 1}
    record |= {"hours": 0, "history": [], "split": "one", "labels": [0], "correct": [1]}
    record |= {"config": cell_config(cell, {}).to_dict(), "shot_groups": {}}
    cell.record_path(folder).parent.mkdir(exist_ok=True)
    cell.record_path(folder).write_text(json.dumps(record | changes))


def test_a_table_says_which_cells_it_is_without(tmp_path):
    definition = read_definition(definition_file(tmp_path, seeds=[3, 4], compare=[]))
    write_record(definition, 0, tmp_path)
    told = "Not finished, 3 of 4 cells (row and seeds): cross_entropy (3, 4); balanced_softmax (4)."
    assert write_summary(definition, tmp_path).endswith(told)
    assert told in (tmp_path / "table.md").read_text()


def test_an_axis_may_be_renamed_in_the_tables_file(tmp_path):
    before = read_definition(definition_file(tmp_path))
    for place in range(2):
        write_record(before, place, tmp_path)
    axes = {"loss": {name: {"method": name} for name in ("balanced_softmax", "cross_entropy")}}
    compare = [{"axis": "loss", "of": "balanced_softmax"}]
    now = read_definition(definition_file(tmp_path, axes=axes, compare=compare))
    told = write_summary(now, tmp_path)
    assert "balanced_softmax - cross_entropy" in told
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["loss"] for row in rows] == ["balanced_softmax", "cross_entropy"]


def test_a_shot_group_that_some_seeds_have_is_told_as_such(tmp_path):
    definition = read_definition(definition_file(tmp_path, seeds=[3, 4], compare=[]))
    for place, groups in enumerate(({"many": 0.5, "few": 0.25}, {}, {"many": 0.75}, {})):
        write_record(
            definition, place, tmp_path, figures={"student": {"mean": 0.5, "groups": groups}}
        )
    write_summary(definition, tmp_path)
    row = next(csv.DictReader((tmp_path / "table.csv").open()))
    assert row["many %"] == f"62.5 ± {12.5 * 2**0.5:.1f}"
    assert (row["few %"], row["medium %"]) == ("25.0 (1 of 2 seeds)", "–")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seeds": 3}, "seeds=3, which is no list of whole numbers"),
        ({"seeds": ["0"]}, "which is no list of whole numbers"),
        ({"seeds": [0, 0]}, "two cells of the name balanced_softmax-0"),
        ({"axes": {"a": {"x": {}, "x-y": {}}, "b": {"z": {}, "y-z": {}}}, "compare": []},
         "two cells of the name x-y-z-3"),
        ({"axes": {"method": {}}, "compare": []}, "has no cell"),
        ({"leave_out": {"method": "cross_entropy"}}, "leave_out is no list"),
        ({"leave_out": [{}]}, "leave_out has {}"),
        ({"leave_out": [{"methd": "cross_entropy"}]}, "leaves out methd=cross_entropy"),
        ({"choose": "false"}, "choose='false'; it is true or false"),
        ({"curve": ["method"]}, "which is no axis"),
        ({"leave_out": [{"method": ["cross_entropy"]}]}, "leaves out method="),
        ({"compare": [{"axis": "method", "of": ["cross_entropy"]}]}, "compares method="),
        ({"compare": [{"axis": ["method"], "of": "cross_entropy"}]}, "which no axis has"),
        ({"settings": {"seed": 7}}, "settings gives 'seed', which would be lost"),
        ({"axes": {"method": {"x": {"cache_dir": "/big"}}}, "compare": []},
         "method=x gives 'cache_dir', which would be lost"),
    ],
)  # fmt: skip
def test_a_table_with_a_fault_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_definition(definition_file(tmp_path, **changes))


def test_the_kept_record_counts_and_no_copy_of_an_earlier_one(tmp_path):
    """`find_record` reads a folder in which `take_records` left copies of the records of then."""
    definition, records, folder = kept_table(tmp_path)
    cell = definition.cells[0]
    kept = kept_path(records, cell)
    take_records(definition, folder, records, {})
    kept.write_text(json.dumps({**json.loads(kept.read_text()), "correct": [1, 1]}))
    cells = {each.name: each for each in definition.cells}
    found = find_record(cell, cells, folder, records, {})[0]
    assert found is not None
    assert found["correct"] == [1, 1]
    # Without kept records the copy is what there is.
    found = find_record(cell, cells, folder, None, {})[0]
    assert found is not None
    assert found["correct"] == []


def test_a_record_that_lacks_what_is_compared_is_named(tmp_path):
    definition, records, folder = kept_table(tmp_path)
    cell = definition.cells[0]
    path = kept_path(records, cell)
    content = json.loads(path.read_text())
    del content["history"], content["labels"]
    path.write_text(json.dumps(content))
    cells = {each.name: each for each in definition.cells}
    message = r"first-3.json is damaged: it lacks history, labels. Restore"
    with pytest.raises(UserError, match=message):
        find_record(cell, cells, folder, records, {})
    take_records(definition, folder, records, {})
    with pytest.raises(UserError, match=message):
        write_summary(definition, folder)


def test_a_mistyped_folder_of_records_is_refused_before_anything_is_run(tmp_path):
    given = [f"--table={definition_file(tmp_path)}", f"--run_dir={tmp_path / 'out'}"]
    for tool in ("run_table", "compare_tables"):
        table = given if tool == "run_table" else [given[0].replace("table", "tables", 1), given[1]]
        done = start(f"tools.{tool}", *table, f"--records={tmp_path / 'typo'}")
        assert done.returncode == 2
        assert f"--records={tmp_path / 'typo'} is no folder" in done.stderr
    assert not (tmp_path / "out").exists()

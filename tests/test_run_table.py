"""Tables of many trainings: two tiny cells, trained; and what the summary makes of records."""

import contextlib
import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.registry import BALANCES
from candle_tf.reporting.image_predictions import read_image_predictions, write_image_predictions
from tests.command import start
from tools import run_table
from tools.tables import summary
from tools.tables.cells import Cell
from tools.tables.definition import read_definition
from tools.tables.plots import curve
from tools.tables.processes import run_commands
from tools.tables.records import (
    cell_config,
    changed_settings,
    find_record,
    keep_records,
    kept_path,
    take_records,
    without_places,
)
from tools.tables.summary import write_against, write_summary

ROOT = Path(__file__).parents[1]


def definition_file(folder: Path, **changes) -> Path:
    flagfile = folder / "tiny.cfg"
    flagfile.write_text(
        "--dataset=digits\n--validation_fraction=0\n--select_epoch=last\n--plugin=tests.tiny_parts\n--student=tiny_student\n--image_size=32\n--epochs=1\n"
    )
    content = {
        "about": "Two losses.",
        "flagfile": str(flagfile),
        "axes": {
            "method": {name: {"method": name} for name in ("balanced_softmax", "cross_entropy")}
        },
        "seeds": [3],
        "compare": [{"axis": "method", "of": "balanced_softmax"}],
        **changes,
    }
    path = folder / "tiny.json"
    path.write_text(json.dumps(content))
    return path


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Two cells, run by two commands; the folder and what the second printed."""
    folder = tmp_path_factory.mktemp("table")
    arguments = [f"--table={definition_file(folder)}", f"--run_dir={folder / 'out'}"]
    first = start("tools.run_table", *arguments, "--cells=1")
    assert first.returncode == 0, first.stderr
    before = sorted((folder / "out" / "cells").iterdir())
    assert len(before) == 1
    stamp = before[0].stat().st_mtime_ns
    second = start("tools.run_table", *arguments, "--processes=2")
    assert second.returncode == 0, second.stderr
    assert before[0].stat().st_mtime_ns == stamp, "a finished cell was run again"
    return folder, second.stdout


def test_the_main_of_tables_does_without_tensorflow_which_its_cells_import():
    program = "import sys, tools.run_table; print('tensorflow' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def told_cpus(folder: Path, names: str, processes: int) -> dict[str, list[int]]:
    """What programs say their CPUs are, once as many as may run at once have begun."""
    program = (
        "import os, pathlib, sys, time\n"
        "mark, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])\n"
        "mark.touch()\n"
        "while len(list(mark.parent.glob('*.mark'))) < count: time.sleep(0.01)\n"
        "print(*sorted(os.sched_getaffinity(0)))\n"
    )
    commands = [
        [sys.executable, "-c", program, str(folder / f"{name}.mark"), str(processes)]
        for name in names
    ]
    logs = [folder / "logs" / f"{name}.log" for name in names]
    ended = sorted(run_commands(commands, logs, processes))
    assert ended == [(place, 0) for place in range(len(names))]
    return {log.stem: [int(cpu) for cpu in log.read_text().split()] for log in logs}


def test_programs_at_once_have_cpus_of_their_own(tmp_path):
    cpus = sorted(os.sched_getaffinity(0))
    if len(cpus) < 2:
        pytest.skip("needs two CPUs")
    told = told_cpus(tmp_path, "ab", 2)
    assert sorted(told["a"] + told["b"]) == cpus
    assert told_cpus(tmp_path, "c", 1) == {"c": cpus}


def test_where_a_program_fails_the_others_are_run_but_those_that_are_not_to_begin(tmp_path):
    programs = ["raise SystemExit(7)", "print('ended')", "print('ended')", "print('ended')"]
    commands = [[sys.executable, "-c", program] for program in programs]
    logs = [tmp_path / f"{name}.log" for name in "abcd"]
    codes = {}

    def can_begin(place: int) -> bool:
        return place != 2 or codes[0] == 0

    for place, code in run_commands(commands, logs, can_begin=can_begin):
        codes[place] = code
    assert codes == {0: 7, 1: 0, 2: None, 3: 0}
    assert logs[1].read_text() == logs[3].read_text() == "ended\n"
    assert not logs[2].exists()


def test_more_processes_than_cpus_are_refused_before_anything_runs(tmp_path):
    many = len(os.sched_getaffinity(0)) + 1
    with pytest.raises(UserError, match=f"--processes={many}, but there are"):
        list(run_commands([["false"]] * many, [tmp_path / "log"] * many, many))
    assert not (tmp_path / "log").exists()
    # With less to run there are CPUs for all; with nothing there is nothing to refuse.
    assert list(run_commands([["true"]], [tmp_path / "log"], many)) == [(0, 0)]
    assert list(run_commands([], [], many)) == []


def test_what_runs_is_terminated_where_the_iteration_is_left(tmp_path):
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("needs two CPUs")
    told = (
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    place = tmp_path / "pid"
    wait = (
        "import pathlib, time\n"
        f"while not pathlib.Path({str(place)!r}).is_file(): time.sleep(0.01)\n"
    )
    commands = [[sys.executable, "-c", told, str(place)], [sys.executable, "-c", wait]]
    finished = run_commands(commands, [tmp_path / "a.log", tmp_path / "b.log"], 2)
    assert next(finished) == (1, 0)
    finished.close()
    with pytest.raises(ProcessLookupError):
        os.kill(int(place.read_text()), 0)


def test_what_runs_is_terminated_with_the_process_that_began_it(tmp_path):
    told = (
        "import os, pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))\n"
        "time.sleep(600)\n"
    )
    place = tmp_path / "pid"
    table = (
        "import pathlib, sys\n"
        "from tools.tables.processes import run_commands\n"
        f"command = [sys.executable, '-c', {told!r}, {str(place)!r}]\n"
        f"list(run_commands([command], [pathlib.Path({str(tmp_path / 'log')!r})]))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", table], cwd=ROOT)
    while not (place.is_file() and place.read_text()):
        time.sleep(0.01)
    training = int(place.read_text())
    try:
        process.terminate()
        assert process.wait() == 128 + signal.SIGTERM
        with pytest.raises(ProcessLookupError):
            os.kill(training, 0)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(training, signal.SIGKILL)


def run_with_failures(
    monkeypatch: pytest.MonkeyPatch, *arguments: Any, fails: str, **options: Any
) -> str:
    """The error of a table whose cells' commands, in place of trainings, fail for one cell."""

    def command(cell: Cell, *_: Any) -> list[str]:
        program = f"print('why'); raise SystemExit({2 * (cell.name == fails)})"
        return [sys.executable, "-c", program]

    monkeypatch.setattr(run_table, "_command", command)
    with pytest.raises(UserError) as told:
        run_table.main(*arguments, **options)
    return str(told.value)


def test_a_cell_that_fails_keeps_no_other_from_being_run(table, tmp_path, monkeypatch):
    folder, _ = table
    definition = read_definition(folder / "tiny.json")
    shutil.copytree(folder / "out" / "runs", tmp_path / "runs")
    failed, other = definition.cells
    shutil.rmtree(failed.run_path(tmp_path))
    told = run_with_failures(
        monkeypatch, definition, tmp_path, {}, fails=failed.name, records=tmp_path / "kept",
        keep=True,
    )  # fmt: skip
    assert "1 of 2 cells are not done" in told
    assert f"{failed.name} ended with code 2: why" in told
    assert not failed.record_path(tmp_path).exists()
    assert other.record_path(tmp_path).exists()
    assert kept_path(tmp_path / "kept", other).exists()
    assert other.row in (tmp_path / "table.md").read_text()


def write_refused_report(run: Path) -> Path:
    """A copy of a run's report that says that the export was refused, not yet in its place."""
    report = json.loads((run / "report.json").read_text())
    copy = run / "refused.json"
    copy.write_text(json.dumps({**report, "refused": "not binary"}))
    return copy


def test_a_cell_whose_export_was_refused_has_its_figures_in_the_table(table, tmp_path, monkeypatch):
    folder, _ = table
    definition = read_definition(folder / "tiny.json")
    shutil.copytree(folder / "out" / "runs", tmp_path / "runs")
    refused, other = definition.cells
    write_refused_report(refused.run_path(tmp_path))
    # The other one fails, and writes no report.
    (other.run_path(tmp_path) / "report.json").unlink()

    def command(cell: Cell, *_: Any) -> list[str]:
        run = str(cell.run_path(tmp_path))
        program = f"import os; os.chdir({run!r}); os.replace('refused.json', 'report.json')"
        wanted = program if cell == refused else "pass"
        return [sys.executable, "-c", f"{wanted}; raise SystemExit(2)"]

    monkeypatch.setattr(run_table, "_command", command)
    with pytest.raises(UserError, match=f"1 of 2 cells are not done. {other.name} ended"):
        run_table.main(definition, tmp_path, {})
    before = json.loads(refused.record_path(folder / "out").read_text())
    assert json.loads(refused.record_path(tmp_path).read_text())["figures"] == before["figures"]
    assert not other.record_path(tmp_path).exists()


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(2)",  # e.g. the images are gone
        "os.kill(os.getpid(), 9)",
        "os.replace('refused.json', 'report.json'); os.kill(os.getpid(), 9)",
    ],
)
def test_the_report_of_an_earlier_refusal_does_not_finish_a_cell_that_fails(
    table, tmp_path, monkeypatch, program
):
    folder, _ = table
    definition = read_definition(folder / "tiny.json")
    shutil.copytree(folder / "out" / "runs", tmp_path / "runs")
    cell = definition.cells[0]
    run = cell.run_path(tmp_path)
    shutil.copy(write_refused_report(run), run / "report.json")
    program = f"import os; os.chdir({str(run)!r}); {program}"
    monkeypatch.setattr(run_table, "_command", lambda *_: [sys.executable, "-c", program])
    with pytest.raises(UserError, match=f"1 of 1 cells are not done. {cell.name} ended with"):
        run_table.main(definition, tmp_path, {}, only=cell.name)
    assert not cell.record_path(tmp_path).exists()


def test_a_cell_that_reads_the_run_of_one_that_failed_is_not_begun(tmp_path, monkeypatch):
    methods = {
        "first": {"method": "cross_entropy"},
        "second": {"method": "plain_distillation", "teacher": "run:{runs}/first-{seed}"},
        "third": {"method": "plain_distillation", "teacher": "run:{runs}/second-{seed}"},
    }
    definition = read_definition(definition_file(tmp_path, axes={"method": methods}, compare=[]))
    told = run_with_failures(monkeypatch, definition, tmp_path / "out", {}, fails="first-3")
    assert "3 of 3 cells are not done" in told
    assert "second-3 reads the run of first-3, so it was not begun" in told
    assert "third-3 reads the run of second-3, so it was not begun" in told
    assert [path.stem for path in (tmp_path / "out" / "logs").iterdir()] == ["first-3"]


def test_a_cell_leaves_a_record_that_agrees_with_its_run(table):
    folder, _ = table
    for name in ("balanced_softmax-3", "cross_entropy-3"):
        record = json.loads((folder / "out" / "cells" / f"{name}.json").read_text())
        run = folder / "out" / "runs" / name
        report = json.loads((run / "report.json").read_text())
        assert record["config"]["seed"] == 3
        assert f"{record['values']['method']}-3" == name
        assert record["split"] == report["split"]["hash"]
        labels, correct = np.array(record["labels"]), np.array(record["correct"])
        mean = np.mean([correct[labels == c].mean() for c in np.unique(labels)])
        assert mean == pytest.approx(report["metrics"]["student"]["mean"])
        # Of one epoch, in full batches.
        assert record["images_seen"] == report["split"]["train"] // 64 * 64


def test_a_kept_record_stands_for_its_cell_while_the_settings_are_the_same(table, tmp_path):
    folder, _ = table
    given = f"--table={folder / 'tiny.json'}"
    records = f"--records={tmp_path / 'kept'}"
    done = start("tools.run_table", given, records, f"--run_dir={folder / 'out'}", "--keep_records")
    assert done.returncode == 0, done.stderr
    cells = read_definition(folder / "tiny.json").cells
    kept = [json.loads(kept_path(tmp_path / "kept", cell).read_text()) for cell in cells]
    for record, cell in zip(kept, cells, strict=True):
        before = json.loads(cell.record_path(folder / "out").read_text())
        places = {"data_dir": "", "run_dir": "", "cache_dir": ""}
        assert record["config"] == before["config"] | places
        assert record["correct"] == before["correct"]
        assert str(folder) not in json.dumps(record)
    # One command on another machine, with a setting of the first cell changed since.
    kept[0]["config"]["epochs"] = 2
    kept_path(tmp_path / "kept", cells[0]).write_text(json.dumps(kept[0]))
    again = start("tools.run_table", given, records, f"--run_dir={tmp_path / 'b'}", "--cells=0")
    assert again.returncode == 0, again.stderr
    rows = list(csv.DictReader((tmp_path / "b" / "table.csv").open()))
    assert [row["method"] for row in rows] == ["cross_entropy"]
    assert "balanced_softmax-3 is run again, as settings changed: epochs" in again.stderr
    assert not cells[0].record_path(tmp_path / "b").exists()
    # Settings of all cells that the trainings of this folder did not have.
    for only in ("", "--only=balanced_softmax"):
        mixed = start(
            "tools.run_table",
            given,
            f"--run_dir={folder / 'out'}",
            "--set=epochs=3",
            only or "--cells=0",
        )
        assert mixed.returncode == 2
        assert "Traceback" not in mixed.stderr
        assert "is of a training with other settings: epochs. Give a --run_dir" in mixed.stderr
    # Settings of all cells that the record's training did not have.
    other = [given, records, f"--run_dir={tmp_path / 'c'}", "--cells=0", "--set=epochs=3"]
    assert "No cell is finished." in start("tools.run_table", *other).stdout
    alone = [given, "--records=none", f"--run_dir={tmp_path / 'd'}", "--cells=0"]
    assert "No cell is finished." in start("tools.run_table", *alone).stdout


def write_record(path: Path, config: dict, correct: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"config": config, "correct": [correct]}))


def test_a_kept_record_of_other_settings_is_not_replaced(tmp_path):
    definition = read_definition(definition_file(tmp_path))
    first, second = definition.cells
    folder, kept = tmp_path / "out", tmp_path / "kept"
    for cell in definition.cells:
        longer = cell_config(cell, {"epochs": 75, "run_dir": "here"}).to_dict()
        write_record(cell.record_path(folder), longer, 1)
    # The same but for places, and one of before there was a setting whose default it has.
    same = cell_config(first, {"epochs": 75, "run_dir": "there"}).to_dict()
    same.pop("weight_average")
    write_record(kept_path(kept, first), same, 0)
    write_record(kept_path(kept, second), cell_config(second, {"epochs": 10}).to_dict(), 0)
    with pytest.raises(UserError) as error:
        keep_records(definition, folder, kept)
    message = str(error.value)
    assert str(kept_path(kept, second)) in message
    assert "epochs=10, now 75. " in message
    for cell in definition.cells:
        assert json.loads(kept_path(kept, cell).read_text())["correct"] == [0]
    kept_path(kept, second).unlink()
    keep_records(definition, folder, kept)
    for cell in definition.cells:
        assert json.loads(kept_path(kept, cell).read_text())["correct"] == [1]


def test_cells_that_could_not_be_kept_are_refused_before_any_is_run(tmp_path):
    path = definition_file(tmp_path)
    cell = read_definition(path).cells[1]
    write_record(kept_path(tmp_path / "kept", cell), cell_config(cell, {"epochs": 10}).to_dict(), 0)
    given = [f"--table={path}", f"--records={tmp_path / 'kept'}", f"--run_dir={tmp_path / 'out'}"]
    done = start("tools.run_table", *given, "--keep_records")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert f"would replace {kept_path(tmp_path / 'kept', cell)}" in done.stderr
    assert "epochs=10, now 1." in done.stderr
    assert not (tmp_path / "out" / "logs").exists()


def test_a_kept_record_is_of_the_same_data_wherever_they_are():
    record = {"config": Config(dataset="folder", data_dir="set.zip").to_dict()}
    same = Config(dataset="folder", data_dir="elsewhere/set.zip", run_dir="runs/other")
    assert changed_settings(record, same) == []
    other = Config(dataset="folder", data_dir="elsewhere/photos.zip")
    assert changed_settings(record, other) == ["data_dir"]


def test_settings_that_a_training_refuses_are_told_before_any_cell_is_run(tmp_path):
    path = definition_file(
        tmp_path, axes={"method": {"a": {}, "b": {"temperature": -1.0}}}, compare=[]
    )
    done = start("tools.run_table", f"--table={path}", f"--run_dir={tmp_path / 'out'}")
    assert done.returncode != 0
    assert "temperature=-1" in done.stderr
    assert not (tmp_path / "out" / "logs").exists()


@pytest.mark.parametrize(
    ("changes", "arguments", "message"),
    [
        ({}, ["--set=epoch=3"], "epoch"),
        ({}, ["--set=epochs=three"], "three"),
        ({"flagfile": "nowhere.cfg"}, [], "nowhere.cfg"),
        ({}, ["--keep_records", "--records=none"], "--keep_records contradicts --records=none"),
        ({}, ["--only=candle"], "--only=candle is in no cell's name"),
        ({}, ["--against=candle"], "--against=candle is no row of the table; one of balanced_soft"),
    ],
)
def test_a_command_that_cannot_be_meant_is_refused(tmp_path, changes, arguments, message):
    path = definition_file(tmp_path, **changes)
    done = start("tools.run_table", f"--table={path}", f"--run_dir={tmp_path / 'out'}", *arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    assert message in done.stderr
    assert not (tmp_path / "out").exists()


def test_the_table_holds_both_cells_and_their_paired_difference(table):
    folder, printed = table
    rows = list(csv.DictReader((folder / "out" / "table.csv").open()))
    assert [row["method"] for row in rows] == ["balanced_softmax", "cross_entropy"]
    assert "balanced_softmax - cross_entropy" in printed
    assert (folder / "out" / "table.png").read_bytes().startswith(b"\x89PNG")
    assert "| balanced_softmax" in (folder / "out" / "table.md").read_text().replace("\\", "")


def test_one_row_is_told_beside_the_others(table):
    folder, _ = table
    definition = read_definition(folder / "tiny.json")
    told = write_against(definition, folder / "out", "balanced_softmax")
    written = (folder / "out" / "against-balanced_softmax.md").read_text()
    whole = (folder / "out" / "table.md").read_text()
    cells = {
        line.split("|")[1].strip().replace("\\", ""): [cell.strip() for cell in line.split("|")]
        for line in whole.splitlines()
        if line.startswith("|")
    }
    for name in ("balanced_softmax", "cross_entropy"):
        mean = cells[name][3]
        assert re.search(rf"^{name} +{re.escape(mean)} ", told, re.MULTILINE)
        assert f"| {mean} |" in re.sub(" +", " ", written)
    points, interval = cells["balanced_softmax - cross_entropy"][4:6]
    assert f"{points} ({interval})" in written


def test_no_difference_is_told_of_runs_on_other_splits(table, tmp_path):
    folder, _ = table
    definition = read_definition(folder / "tiny.json")
    (tmp_path / "cells").mkdir()
    for place, cell in enumerate(definition.cells):
        record = json.loads(cell.record_path(folder / "out").read_text())
        record["split"] += str(place)
        cell.record_path(tmp_path).write_text(json.dumps(record))
    assert "not on the same split" in write_summary(definition, tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": [1]}, "'seed', which is no key"),
        ({"axes": {"method": {"a": {"metod": "candle"}}}}, "'metod', which is no setting"),
        ({"compare": [{"axis": "method", "of": "candle"}]}, "which no axis has"),
        ({"compare": [{"axis": "method", "off": "candle"}]}, "expected .*axis.*of"),
        ({"axes": {"method": ["candle"]}, "compare": []}, "method is no object of values"),
        ({"axes": {"method": {"a": 1}}, "compare": []}, "method=a is no object of settings"),
        ({"seeds": []}, "no axis or no seed"),
        ({"reach": 45}, "reach=45, which is no accuracy"),
        ({"curve": "epochs"}, "curve='epochs', which is no axis; one of method"),
    ],
)
def test_a_wrong_table_is_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        read_definition(definition_file(tmp_path, **changes))


def test_left_out_cells_and_the_order_of_seeds(tmp_path):
    path = definition_file(
        tmp_path,
        axes={
            "method": {"candle": {}, "cross_entropy": {"method": "cross_entropy"}},
            "epochs": {"5": {"epochs": 5}, "25": {"epochs": 25}},
        },
        seeds=[0, 1],
        compare=[],
        leave_out=[{"method": "cross_entropy", "epochs": "25"}],
    )
    names = [cell.name for cell in read_definition(path).cells]
    assert names == [
        *("candle-5-0", "candle-25-0", "cross_entropy-5-0"),
        *("candle-5-1", "candle-25-1", "cross_entropy-5-1"),
    ]


def test_a_cell_learns_from_the_run_of_another(tmp_path):
    methods = {
        "first": {"method": "cross_entropy"},
        "second": {"method": "plain_distillation", "teacher": "run:{runs}/first-{seed}"},
    }
    first, second = read_definition(
        definition_file(tmp_path, axes={"method": methods}, compare=[])
    ).cells
    folder = tmp_path / "out"
    assert second.settings_in(folder)["teacher"] == f"run:{first.run_path(folder)}"
    # A kept record serves wherever the table is run.
    record = {
        "config": cell_config(replace(second, settings=second.settings_in(folder)), {}).to_dict()
    }
    assert changed_settings(record, cell_config(second, {})) == []


def test_a_replay_reads_the_run_of_another_cell_and_its_record_names_no_folder(tmp_path):
    methods = {
        "played": {"method": "candle"},
        "replay": {"method": "candle", "balance_replay": "{runs}/played-{seed}"},
    }
    definition = read_definition(definition_file(tmp_path, axes={"method": methods}, compare=[]))
    played, replay = definition.cells
    folder = tmp_path / "out"
    assert replay.needed_cells == [played.name]
    assert replay.settings_in(folder)["balance_replay"] == str(played.run_path(folder))
    with pytest.raises(UserError, match=f"{replay.name} reads the run of {played.name}"):
        run_table.main(definition, folder, {}, only="replay")
    config = cell_config(replace(replay, settings=replay.settings_in(folder)), {}).to_dict()
    assert without_places(config)["balance_replay"] == played.name
    assert changed_settings({"config": config}, cell_config(replay, {})) == []


def test_a_cell_is_trained_after_the_one_that_it_learns_from(tmp_path):
    methods = {
        "first": {"method": "cross_entropy"},
        "second": {"method": "plain_distillation", "teacher": "run:{runs}/first-{seed}"},
    }
    definition = read_definition(
        definition_file(
            tmp_path,
            axes={"method": methods},
            compare=[],
            choose=True,
            settings={"validation_fraction": 0.2},
        )
    )
    first, second = definition.cells
    folder, records = tmp_path / "out", tmp_path / "records"
    assert (first.needed_cells, second.needed_cells) == ([], [first.name])
    with pytest.raises(UserError, match=r"second-3 reads the run of first-3, .* --only=first-3"):
        run_table.main(definition, folder, {}, only="second")
    first.record_path(folder).parent.mkdir(parents=True)
    first.record_path(folder).write_text(json.dumps({"config": cell_config(first, {}).to_dict()}))
    with pytest.raises(UserError, match=r"delete .*first-3.json, which is no run, and run it"):
        run_table.main(definition, folder, {}, only="second")
    first.record_path(folder).unlink()
    with pytest.raises(UserError, match=r"give --processes=1"):
        run_table.main(definition, folder, {}, processes=2)
    # A record is no network: the first is trained again for the second, and for it alone.
    records.mkdir()
    kept = {"config": cell_config(first, {}).to_dict()}
    kept_path(records, first).write_text(json.dumps(kept))
    take_records(definition, folder, records, {})
    assert not first.record_path(folder).exists()
    kept_path(records, second).write_text(json.dumps({"config": cell_config(second, {}).to_dict()}))
    take_records(definition, folder, records, {})
    assert first.record_path(folder).exists()
    assert second.record_path(folder).exists()


def test_all_tables_of_ours_can_be_read():
    tables = sorted((ROOT / "configs" / "tables").glob("*.json"))
    assert tables
    for path in tables:
        definition = read_definition(path)
        assert definition.cells
        assert all((ROOT / cell.flagfile).is_file() for cell in definition.cells)


def test_every_cell_of_every_table_has_settings_that_a_training_accepts():
    for path in sorted((ROOT / "configs" / "tables").glob("*.json")):
        for cell in read_definition(path).cells:
            at = replace(cell, flagfile=str(ROOT / cell.flagfile))
            config = cell_config(at, {"data_dir": "data.zip"})
            for name, value in cell.settings_in(Path()).items():
                assert config.to_dict()[name] == value, (path.name, cell.name, name)


# What the commands of RESULTS.md give by --set.
SET = {"screen_patient": {"epochs": "10", "views": "16"}}


def test_every_kept_record_of_ours_has_the_settings_of_its_cell():
    folders = sorted((ROOT / "configs" / "tables" / "records").iterdir())
    assert folders
    for folder in folders:
        definition = read_definition(folder.parents[1] / f"{folder.name}.json")
        cells = {
            cell.name: replace(cell, flagfile=str(ROOT / cell.flagfile))
            for cell in definition.cells
        }
        for path in folder.iterdir():
            settings = SET.get(folder.name, {})
            found = find_record(cells[path.stem], cells, Path("nowhere"), folder, settings)
            assert found[1] == "", path


def settings_by_row(name: str) -> dict[str, dict]:
    cells = read_definition(ROOT / "configs" / "tables" / f"{name}.json").cells
    return {cell.row: cell.settings for cell in cells}


@pytest.mark.parametrize(
    ("table", "others"),
    [
        (
            "t1_caltech101",
            ("balanced_softmax_mixed", "ldam_drw_mixed", "plain_distillation_patient"),
        ),
        ("t2_cifar100_if100", ("plain_distillation_patient",)),
        ("t3_cifar100_if10", ("plain_distillation_patient",)),
        ("t4_fashion_mnist_if100", ("plain_distillation_patient",)),
    ],
)
def test_rows_that_are_compared_with_patient_views_have_the_same_kinds_of_view(table, others):
    settings = settings_by_row(table)
    views = ("augmentation", "mix", "mix_views", "unmixed_from")
    of_teacher = ("teacher_view", "views", "calibration_resolutions", "temperature")
    for weights in ("scratch", "pretrained"):
        patient = settings[f"{weights}-candle_patient"]
        for name in others:
            row = settings[f"{weights}-{name}"]
            same = (*views, *of_teacher) if "distillation" in name else views
            assert {key: row[key] for key in same} == {key: patient[key] for key in same}


def test_every_fixed_lambda_of_the_ablations_is_in_the_table_that_chooses_it():
    chosen = settings_by_row("choose_lambda_caltech101")
    ablations = settings_by_row("t1_ablations")
    for weights in ("scratch", "pretrained"):
        rows = [row for name, row in chosen.items() if name.startswith(weights)]
        fixed = [row for row in rows if row["balance"] == "fixed"]
        for name, row in ablations.items():
            if name.startswith(weights) and "lambda_" in name:
                # With the same settings, but for the images that are held out.
                assert {**row, "validation_fraction": 0.2} in fixed
        assert {row["balance"] for row in rows} == set(BALANCES)


def test_one_training_phase_has_as_many_epochs_as_two():
    rows = settings_by_row("t3_anchor")
    assert len({row["epochs"] * row["binary_steps"] for row in rows.values()}) == 1
    assert len({row["weight_decay"] for row in rows.values()}) == 1


def test_cells_of_a_table_that_chooses_write_no_files_and_are_those_of_cells_that_do(tmp_path):
    records = {}
    for choose in (True, False):
        path = definition_file(
            tmp_path,
            choose=choose,
            axes={"method": {"balanced_softmax": {"method": "balanced_softmax"}}},
            compare=[],
            settings={"validation_fraction": 0.2},
        )
        folder = tmp_path / f"out_{choose}"
        done = start("tools.run_table", f"--table={path}", f"--run_dir={folder}")
        assert done.returncode == 0, done.stderr
        (cell,) = read_definition(path).cells
        assert (cell.run_path(folder) / "export").exists() is not choose
        records[choose] = json.loads(cell.record_path(folder).read_text())
    without, with_files = records[True], records[False]
    assert without["correct"] == with_files["correct"]
    assert without["validation"] == with_files["validation"]
    assert without["config"]["export_student"] == "off"
    assert changed_settings(without, cell_config(cell, {})) == []


def test_a_table_that_chooses_without_validation_images_is_refused_before_it_trains(tmp_path):
    definition = read_definition(definition_file(tmp_path, choose=True))
    with pytest.raises(UserError, match=r"cross_entropy-3 has --validation_fraction=0.*chooses"):
        run_table.main(definition, tmp_path / "out", {}, only="cross")
    assert not (tmp_path / "out").exists()
    # A saved split may have such images.
    cell = definition.cells[0]
    run_table._check_cell(cell, cell_config(cell, {"split": "split.json"}), chooses=True)


def test_a_table_that_chooses_shows_the_validation_subset_alone(table, tmp_path):
    folder, _ = table
    definition = read_definition(definition_file(tmp_path, choose=True))
    (tmp_path / "cells").mkdir()
    for place, cell in enumerate(definition.cells):
        record = json.loads(cell.record_path(folder / "out").read_text())
        scores = [{"val_mean_class_accuracy": 0.125 * (place + k)} for k in (1, 3, 2)]
        record["history"] = scores
        cell.record_path(tmp_path).write_text(json.dumps(record))
    write_summary(definition, tmp_path)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["validation %"] for row in rows] == ["37.5", "50.0"]
    assert "mean %" not in rows[0]
    assert "| no predictions for the same images |" in (tmp_path / "table.md").read_text()


def test_a_table_that_chooses_compares_the_validation_images_of_all_seeds(table, tmp_path):
    folder, _ = table
    definition = read_definition(definition_file(tmp_path, choose=True, seeds=[3, 4]))
    (tmp_path / "cells").mkdir()
    right = {
        "balanced_softmax-3": [1, 1, 1, 0], "balanced_softmax-4": [1, 1, 0],
        "cross_entropy-3": [1, 0, 1, 0], "cross_entropy-4": [1, 1, 1],
    }  # fmt: skip
    for cell in definition.cells:
        name = cell.name.replace("-4", "-3")
        record = json.loads((folder / "out" / "cells" / f"{name}.json").read_text())
        labels = [0, 0, 5, 5] if cell.seed == 3 else [0, 5, 5]
        record |= {"seed": cell.seed, "split": f"split of seed {cell.seed}"}
        record["validation"] = {"labels": labels, "correct": right[cell.name]}
        record["shot_groups"] = {"many": [0], "medium": [5], "few": [7]}
        cell.record_path(tmp_path).write_text(json.dumps(record))
    printed = write_summary(definition, tmp_path)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    # Class 0: 3 of 3 and 2 of 3; class 5: 2 of 4 and 3 of 4.
    first = [(1 + 0.5) / 2, (1 + 0.5) / 2]
    assert rows[0]["validation %"] == f"{100 * np.mean(first):.1f} ± 0.0"
    assert rows[0]["many %"] == "100.0 ± 0.0"
    assert rows[0]["few %"] == "–"
    difference = next(line for line in printed.splitlines() if "softmax - cross" in line)
    assert f"{100 * ((3 - 2) / 3 + (2 - 3) / 4) / 2:+.1f}" in difference
    assert f"{100 / 3:+.1f} (" in difference
    assert f"{-100 / 4:+.1f} (" in difference


def test_when_an_accuracy_was_reached_counts_from_the_first_epoch_to_the_first_that_has_it(
    table, tmp_path
):
    folder, _ = table
    definition = read_definition(definition_file(tmp_path, reach=0.5))
    # Of five epochs the first two were another phase's, which took its time as well.
    (tmp_path / "cells").mkdir()
    for cell, scores in zip(definition.cells, ((0.4, 0.5, 0.3), (0.1, 0.2, 0.49)), strict=True):
        record = json.loads(cell.record_path(folder / "out").read_text())
        record["history"] = [{"val_mean_class_accuracy": s, "seconds": 90.0} for s in scores]
        record |= {"images_in_epoch": 1_000, "images_seen": 5_000, "hours": 5 * 90 / 3600}
        cell.record_path(tmp_path).write_text(json.dumps(record))
    write_summary(definition, tmp_path)
    rows = list(csv.DictReader((tmp_path / "table.csv").open()))
    assert [row["images to 50 %"] for row in rows] == ["4,000", "not reached"]
    assert [row["minutes to 50 %"] for row in rows] == ["6.0", "not reached"]
    assert [row["best validation %"] for row in rows] == ["50.0", "49.0"]


def test_a_curve_has_a_line_for_what_differs_in_more_than_images_seen(table, tmp_path, monkeypatch):
    folder, _ = table
    axes = {
        "method": {name: {"method": name} for name in ("balanced_softmax", "cross_entropy")},
        "epochs": {"2": {"epochs": 2}, "1": {"epochs": 1}},
    }
    path = definition_file(tmp_path, axes=axes, curve="epochs")
    definition = read_definition(path)
    (tmp_path / "cells").mkdir()
    for cell in definition.cells:
        name = f"{cell.values['method']}-3.json"
        record = json.loads((folder / "out" / "cells" / name).read_text())
        epochs = int(cell.values["epochs"])
        record |= {"values": cell.values, "images_seen": 1000 * epochs}
        record["figures"]["student"]["mean"] = 0.25 * epochs
        cell.record_path(tmp_path).write_text(json.dumps(record))
    drawn = []
    monkeypatch.setattr(summary, "curve", lambda *given: drawn.append(given) or curve(*given))
    write_summary(definition, tmp_path)
    points = [(2000.0, [50.0]), (1000.0, [25.0])]
    assert drawn == [({"balanced_softmax": points, "cross_entropy": points}, "test set")]
    (axis,) = curve(*drawn[0]).axes
    line = axis.lines[0]
    assert (list(line.get_xdata()), list(line.get_ydata())) == ([1000, 2000], [25, 50])
    assert [text.get_text() for text in axis.get_legend().get_texts()] == list(drawn[0][0])


def test_seeds_with_validation_images_of_their_own_are_compared_on_one_test_set(table, tmp_path):
    folder, _ = table
    definition = read_definition(definition_file(tmp_path, seeds=[3, 4]))
    (tmp_path / "cells").mkdir()
    for cell in definition.cells:
        name = cell.name.replace("-4", "-3")
        record = json.loads((folder / "out" / "cells" / f"{name}.json").read_text())
        record |= {"seed": cell.seed, "split": f"split of seed {cell.seed}"}
        cell.record_path(tmp_path).write_text(json.dumps(record))
    assert "not on the same split" not in write_summary(definition, tmp_path)


def test_settings_of_all_cells_yield_to_those_of_an_axis(tmp_path):
    path = definition_file(
        tmp_path,
        settings={"epochs": 7, "width": 0.5},
        axes={"method": {"candle": {"epochs": 9}, "other": {}}},
        compare=[],
    )
    found = {cell.name: cell.settings for cell in read_definition(path).cells}
    assert found == {
        "candle-3": {"epochs": 9, "width": 0.5}, "other-3": {"epochs": 7, "width": 0.5},
    }  # fmt: skip
    with pytest.raises(UserError, match="settings gives 'epoch', which is no setting"):
        read_definition(definition_file(tmp_path, settings={"epoch": 1}))


def test_predictions_come_back_whatever_their_names_hold(tmp_path):
    path = tmp_path / "predictions.csv"
    names = ["a,b", 'quote"d', "d\rög"]
    predicted = {"m": np.array([2, 0, 1])}
    write_image_predictions(
        path, ["x\n.png", "y\r.png", "z.png"], np.array([2, 1, 0]), predicted, names
    )
    back = read_image_predictions(path)
    assert back.images == ("x\n.png", "y\r.png", "z.png")
    assert back.predicted["m"] == ("d\rög", "a,b", 'quote"d')
    assert back.correct("m").tolist() == [True, False, False]
    path.write_text("image,label\n")
    with pytest.raises(UserError, match="damaged"):
        read_image_predictions(path)

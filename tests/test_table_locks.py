"""Several commands in the folder of one table."""

import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from candle_tf.config import Config
from candle_tf.errors import UserError
from tests.test_run_table import ROOT, definition_file
from tests.test_table_records import kept_table, write_record
from tools import run_table
from tools.tables.cells import Cell
from tools.tables.definition import TableDefinition, read_definition
from tools.tables.locks import table_lock
from tools.tables.records import _COPY

HOLDER = """
import sys
from pathlib import Path
from tools.tables.definition import read_definition
from tools.tables.locks import lock_cell, table_lock
cell = read_definition(Path(sys.argv[1])).cells[int(sys.argv[2])]
with table_lock(Path(sys.argv[3])):
    lock = lock_cell(cell, Path(sys.argv[3]))
print("held", flush=True)
sys.stdin.read()
"""
COMMANDS = 4
TIMES = 3


def test_commands_that_begin_at_once_have_all_kept_records(tmp_path, capsys):
    definition, records, folder = kept_table(tmp_path)
    together = threading.Barrier(COMMANDS)

    def command(number: int) -> None:
        only = definition.cells[number % 2].name
        together.wait()
        for _ in range(TIMES):
            run_table.main(definition, folder, {}, only=only, most=0, records=records)

    with ThreadPoolExecutor(COMMANDS) as pool:
        list(pool.map(command, range(COMMANDS)))
    assert "Not finished" not in capsys.readouterr().out
    assert "Not finished" not in (folder / "table.md").read_text()
    assert {path.name for path in folder.iterdir()} == {
        *("cells", "table.md", "table.csv", "table.png")
    }


def test_short_work_does_not_overlap_and_leaves_no_file(tmp_path):
    within: list[int] = []

    def work(number: int) -> int:
        most = 0
        for _ in range(50):
            with table_lock(tmp_path / "out"):
                within.append(number)
                most = max(most, len(within))
                within.remove(number)
        return most

    with ThreadPoolExecutor(COMMANDS) as pool:
        assert list(pool.map(work, range(COMMANDS))) == [1] * COMMANDS
    # Who found the folder there leaves it.
    assert [path for path in tmp_path.rglob("*") if path != tmp_path / "out"] == []


def stand_in(monkeypatch: pytest.MonkeyPatch, programs: dict[str, str]) -> None:
    """Programs in place of trainings, by the cell's name."""

    def command(cell: Cell, *_: object) -> list[str]:
        return [sys.executable, "-c", programs[cell.name]]

    monkeypatch.setattr(run_table, "_command", command)


@pytest.fixture
def definition(tmp_path) -> TableDefinition:
    return read_definition(definition_file(tmp_path))


@pytest.fixture
def held(tmp_path) -> Iterator[subprocess.Popen[str]]:
    """Another process, which runs the first cell until its input ends."""
    path = definition_file(tmp_path)
    arguments = [str(path), "0", str(tmp_path / "out")]
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, *arguments],
        cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.communicate()


def test_a_cell_that_another_command_runs_is_refused_and_the_others_are_run(
    definition, held, tmp_path, monkeypatch
):
    first, second = definition.cells
    out = tmp_path / "out"
    stand_in(monkeypatch, {cell.name: "raise SystemExit(3)" for cell in definition.cells})
    with pytest.raises(UserError) as told:
        run_table.main(definition, out, {})
    assert f"{first.name} is in use by process {held.pid} on " in str(told.value)
    assert "or leave the cell out by --only" in str(told.value)
    assert f"{second.name} ended with code 3" in str(told.value)
    # Its log is the other command's.
    assert [path.stem for path in (out / "logs").iterdir()] == [second.name]
    held.communicate()
    with pytest.raises(UserError, match=f"{first.name} ended with code 3"):
        run_table.main(definition, out, {}, only=first.name)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, ""),
        ({"config": Config(epochs=7).to_dict()}, "training with other settings: "),
        # That another command took a kept record is no reason: another cell may read the run.
        ({_COPY: True}, "ended with code 3"),
    ],
)
def test_a_cell_that_another_command_has_finished_meanwhile_is_not_run(
    definition, tmp_path, monkeypatch, changes, told
):
    first, second = definition.cells
    out, other = tmp_path / "out", tmp_path / "other"
    other.mkdir()
    write_record(definition, 1, other, **changes)
    record = second.record_path(out)
    written, folder = str(second.record_path(other)), str(record.parent)
    move = f"os.makedirs({folder!r}, exist_ok=True); os.replace({written!r}, {str(record)!r})"
    finish = f"import os; {move}; raise SystemExit(4)"
    stand_in(monkeypatch, {first.name: finish, second.name: "raise SystemExit(3)"})
    with pytest.raises(UserError) as failed:
        run_table.main(definition, out, {})
    assert f"{first.name} ended with code 4" in str(failed.value)
    assert f"{2 if told else 1} of 2 cells are not done" in str(failed.value)
    assert told in str(failed.value)
    assert (out / "logs" / f"{second.name}.log").exists() is ("code" in told)


def test_a_folder_that_cannot_be_made_is_told(definition, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--run_dir=.*file.out cannot be written"):
        run_table.main(definition, tmp_path / "file" / "out", {}, most=0)

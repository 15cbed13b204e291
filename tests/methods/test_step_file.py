"""steps.csv: appended epoch by epoch, and complete after any kill."""

import csv
import logging
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from candle_tf.errors import UserError
from candle_tf.files import append_durably
from candle_tf.methods.step_file import StepFile

_ROOT = Path(__file__).parents[2]
STEPS, EPOCHS = 50, 4


def rows_of(epoch: int) -> list[dict[str, float]]:
    return [
        {"epoch": epoch + 1, "step": step + 1, "kl": (epoch + 1) / (step + 3)}
        for step in range(STEPS)
    ]


def whole_text(epochs: int = EPOCHS) -> str:
    """The file by Python's csv module, all at once."""
    lines = ["epoch,step,kl\n"]
    for epoch in range(epochs):
        lines += [",".join(map(str, row.values())) + "\n" for row in rows_of(epoch)]
    return "".join(lines)


def write(path: Path, first: int, end: int) -> StepFile:
    file = StepFile(path, STEPS)
    for epoch in range(first, end):
        file.append(epoch, rows_of(epoch))
    return file


def test_lines_are_those_of_all_epochs_at_once(tmp_path):
    path = tmp_path / "steps.csv"
    for end in range(1, EPOCHS + 1):
        write(path, 0, end)
        assert path.read_text() == whole_text(end)
    assert [path.name for path in tmp_path.iterdir()] == ["steps.csv"]


def test_what_is_written_is_not_written_once_more(tmp_path):
    """Else an epoch would cost as much as all before it."""
    path = tmp_path / "steps.csv"
    file = write(path, 0, 2)
    place = path.stat().st_ino
    file.append(2, rows_of(2))
    assert path.stat().st_ino == place
    # One process after the other, each file may be a copy that shares its bytes with another.
    (tmp_path / "copy.csv").hardlink_to(path)
    write(path, 3, 4)
    assert path.read_text() == whole_text()
    assert (tmp_path / "copy.csv").read_text() == whole_text(3)


@pytest.mark.parametrize("begun", ["1,1,0.", "3,1,0.5\n3,2", "3,1,0.5\n" * 200])
def test_what_is_beyond_the_epochs_that_are_done_is_left_out(tmp_path, begun):
    path = tmp_path / "steps.csv"
    path.write_text(whole_text(2) + begun)
    write(path, 2, 4)
    assert path.read_text() == whole_text()


KILLED = """
import resource, signal, sys
from pathlib import Path
from tests.methods.test_step_file import rows_of, write

path, size = Path(sys.argv[1]), int(sys.argv[2])
file = write(path, 0, 2)
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
file.append(2, rows_of(2))
"""


@pytest.mark.parametrize("written", [0, 1, 777])
def test_a_process_killed_in_the_middle_of_a_write_is_resumed_exactly(tmp_path, written):
    """The kernel writes up to a limit of the file's size, and ends the process there."""
    path = tmp_path / "steps.csv"
    size = len(whole_text(2)) + written
    done = subprocess.run([sys.executable, "-c", KILLED, str(path), str(size)], cwd=_ROOT)
    assert done.returncode == -signal.SIGXFSZ
    assert path.read_text() == whole_text()[:size]
    write(path, 2, 4)
    assert path.read_text() == whole_text()


@pytest.mark.parametrize("change", ["removed", "longer", "shorter"])
def test_a_file_that_another_changes_meanwhile_is_counted_again(tmp_path, change, caplog):
    path = tmp_path / "steps.csv"
    file = write(path, 0, 2)
    if change == "removed":
        path.unlink()
    else:
        path.write_text(whole_text(2) + "what" if change == "longer" else whole_text(1)[:-3])
    with caplog.at_level(logging.WARNING, "absl"):
        file.append(2, rows_of(2))
    file.append(3, rows_of(3))
    text = whole_text()
    if change == "removed":
        text = whole_text(0) + text[len(whole_text(2)) :]
    elif change == "shorter":
        # The last line, which was cut off, is left out.
        text = whole_text(1).rsplit("\n", 2)[0] + "\n" + text[len(whole_text(2)) :]
    assert path.read_text() == text
    assert ("50 whole lines of 101" in caplog.text) == (change == "shorter")


def test_columns_of_an_older_version_are_kept(tmp_path):
    path = tmp_path / "steps.csv"
    older = 'step,"old, er",kl\n' + "1,7.0,2.0\n" * STEPS
    path.write_text(older)
    file = StepFile(path, STEPS)
    for epoch in (1, 2):
        file.append(epoch, rows_of(epoch))
    assert path.read_text().startswith(older)
    with path.open(newline="") as opened:
        rows = list(csv.DictReader(opened))
    assert [row["old, er"] for row in rows] == ["7.0"] * STEPS + ["nan"] * 2 * STEPS
    assert [float(row["kl"]) for row in rows[STEPS : 2 * STEPS]] == [r["kl"] for r in rows_of(1)]


def test_a_file_that_cannot_be_written_is_a_message(tmp_path):
    with pytest.raises(UserError, match="cannot be written"):
        append_durably(tmp_path, b"lines")
    with pytest.raises(UserError, match="no room left"):
        append_durably(Path("/dev/full"), b"lines")

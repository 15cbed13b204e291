"""Progress in lines and on a terminal, and times in words."""

import os
import pty
import subprocess
import sys

import pytest

from candle_tf.progress import Progress, format_seconds

CODE = """
from candle_tf.progress import Progress
with Progress("features", total=1000) as progress:
    for _ in range(4):
        progress.advance(250, "epoch 1 of 2")
"""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (250, "4 min 10 s"), (3599.7, "1:00 h"),
     (11_240, "3:07 h"), (float("inf"), "an unknown time")],
)  # fmt: skip
def test_seconds_in_words(seconds, words):
    assert format_seconds(seconds) == words


@pytest.fixture
def lines(monkeypatch):
    told = []
    monkeypatch.setattr("candle_tf.progress.logging.info", lambda text, *a: told.append(text % a))
    return told


def test_a_line_has_count_rate_and_time_left(lines, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("candle_tf.progress.time.monotonic", lambda: now[0])
    with Progress("student", 3000, seconds=30) as progress:
        for now[0] in (10.0, 29.9, 40.0, 60.0, 80.0):
            progress.advance(400, "epoch 1 of 2")
    # At 40 s for 1,200 images; the rate of the second line is that since the first.
    assert lines == [
        "student: 1,200 of 3,000 images, 30 images/s, 1 min 0 s left (epoch 1 of 2)",
        "student: 2,000 of 3,000 images, 20 images/s, 50 s left (epoch 1 of 2)",
    ]
    assert progress.summary() == "2,000 images in 1 min 20 s, 25 images/s"


def terminal_output(code: str) -> str:
    controller, terminal = pty.openpty()
    subprocess.run([sys.executable, "-c", code], stderr=terminal, check=True)
    shown = os.read(controller, 65536).decode()
    os.close(terminal)
    os.close(controller)
    return shown


def test_a_terminal_gets_a_bar_with_rate_and_time_left():
    shown = terminal_output(CODE)
    assert "features" in shown
    assert "images/s" in shown
    assert "/1000" in shown


def test_a_bar_tells_the_time_left_by_the_work_where_units_differ():
    """tqdm's own, "elapsed<left", takes all units for alike."""
    code = CODE.replace("total=1000", "total=1000, work=40.0").replace(
        '"epoch 1 of 2"', '"epoch 1 of 2", work=1.0'
    )
    shown = terminal_output(code)
    assert "/1000" in shown
    assert "images/s" in shown
    assert "<" not in shown


def test_no_terminal_gets_no_bar():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stderr == done.stdout == ""


def test_the_time_left_is_told_by_the_work_where_units_differ(lines, monkeypatch):
    """1,000 units of work 1 and then 1,000 of work 3: halfway there are three quarters left."""
    now = [0.0]
    monkeypatch.setattr("candle_tf.progress.time.monotonic", lambda: now[0])
    with Progress("student", 2000, seconds=30, work=4000.0) as progress:
        now[0] = 50.0
        progress.advance(500, work=500.0)
        now[0] = 100.0
        progress.advance(500, work=500.0)
        now[0] = 150.0
        progress.advance(500, work=1500.0)
    assert [line.split(", ")[-1] for line in lines] == [
        "5 min 50 s left",
        "5 min 0 s left",
        "50 s left",
    ]
    assert lines[1].startswith("student: 1,000 of 2,000 images, 10 images/s")

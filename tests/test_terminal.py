"""Control characters in names of others are shown as codes, whoever prints them."""

import subprocess
import sys
from pathlib import Path

import pytest

from candle_tf import terminal
from candle_tf.terminal import escape_controls

HOSTILE = "a\x1b[2Jb\x1b]0;title\x07\x9b31m\u202egnp.exe"
PROGRAM = f"""
import sys
from absl import logging
from candle_tf import app
from candle_tf.errors import UserError
NAME = {HOSTILE!r}

def main(_):
    print(NAME)
    logging.warning(NAME)
    if sys.argv[1:] == ["user"]:
        raise UserError(NAME)
    if sys.argv[1:] == ["exit"]:
        raise SystemExit(NAME)
    raise ValueError(NAME)

app.run(main, takes_arguments=True)
"""


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (HOSTILE, "a\\x1b[2Jb\\x1b]0;title\\x07\\x9b31m\\u202egnp.exe"),
        ("café\t日本\n\U0001f600 100 %\r\b", "café\t日本\n\U0001f600 100 %\r\b"),
        ("\0\x7f", "\\x00\\x7f"),
    ],
)
def test_control_characters_are_codes_and_all_others_are_kept(text, shown):
    assert escape_controls(text) == shown


@pytest.mark.parametrize("how", ["user", "exit", "defect"])
def test_nothing_a_main_prints_is_obeyed_by_a_terminal(tmp_path, how):
    (tmp_path / "main.py").write_text(PROGRAM, encoding="utf-8")
    root = str(Path(terminal.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "main.py", how],
        cwd=tmp_path,
        env={"PYTHONPATH": root, "PYTHONIOENCODING": "utf-8"},
        capture_output=True,
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert out == escape_controls(HOSTILE) + "\n"
    assert err.count(escape_controls(HOSTILE)) >= 2
    assert not any(character in out + err for character in "\x1b\x07\x9b\u202e")

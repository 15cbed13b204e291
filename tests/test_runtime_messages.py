"""What TensorFlow's runtime writes at each start: dropped on good runs, and nothing else is."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import candle_tf
from candle_tf.runtime_messages import HARMLESS
from tests.command import start_from_nothing

SUMMARY = ("--student=quicknet_small", "--image_size=32", "--width=0.25", "--classes=10")
NOISE = re.compile(r"^[EW]0000|InitializeLog|Using TensorFlow backend|oneDNN|factory", re.MULTILINE)

FILTERED = """
import os, subprocess, sys, threading
from candle_tf.runtime_messages import drop_runtime_messages

harmless = sys.argv[1]
with drop_runtime_messages():
    os.write(2, f"{harmless}\\n".encode())
    os.write(2, b"E0000 00:00:17 1 cuda_dnn.cc:1] the device is lost\\n")
    thread = threading.Thread(target=os.write, args=(2, f"{harmless}\\nof a thread\\n".encode()))
    thread.start()
    thread.join()
    subprocess.run([sys.executable, "-c", "import os; os.write(2, b'of a process\\\\n')"])
    os.write(2, b"half a line")
    if "crash" in sys.argv:
        os.abort()
    if "raise" in sys.argv:
        raise ImportError("no such library")
os.write(2, f"\\n{harmless}\\n".encode())
"""
LINE = (
    "E0000 00:00:1795807535.742902    9409 cuda_dnn.cc:8579] Unable to register cuDNN factory: "
    "Attempting to register factory for plugin cuDNN when one has already been registered"
)
KEPT = "E0000 00:00:17 1 cuda_dnn.cc:1] the device is lost\nof a thread\nof a process\nhalf a line"


def run_filter(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", FILTERED, LINE, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_main_that_runs_well_says_nothing_of_the_runtime():
    done = start_from_nothing("candle_tf.summary", *SUMMARY)
    assert done.returncode == 0, done.stderr
    assert not NOISE.search(done.stderr), done.stderr
    assert not NOISE.search(done.stdout)


def test_verbosity_keeps_what_the_runtime_says():
    done = start_from_nothing("candle_tf.summary", *SUMMARY, "--verbosity=1")
    assert done.returncode == 0, done.stderr
    assert "computation placer already registered" in done.stderr


MAIN = """
import multiprocessing, sys
import candle_tf
from absl import logging
from candle_tf.runtime_messages import set_child_verbosity

if __name__ == "__main__":
    logging.set_verbosity(int(sys.argv[1]))
    set_child_verbosity()
    from candle_tf.data.pipeline import steps_per_epoch  # TensorFlow is imported for it
    process = multiprocessing.get_context("spawn").Process(target=steps_per_epoch, args=(1, 1))
    process.start()
    process.join()
    sys.exit(process.exitcode)
"""


@pytest.mark.parametrize("verbosity", [0, 1])
def test_a_process_that_a_main_starts_says_as_much(tmp_path, verbosity):
    (tmp_path / "main.py").write_text(MAIN)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "main.py"), str(verbosity)],
        env={**os.environ, "PYTHONPATH": str(Path(candle_tf.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert ("computation placer already registered" in done.stderr) == (verbosity == 1)
    assert bool(NOISE.search(done.stderr)) == (verbosity == 1), done.stderr


def test_only_known_lines_are_dropped():
    done = run_filter()
    assert done.returncode == 0
    # What is written after the end of the context is not filtered.
    assert done.stderr == f"{KEPT}\n{LINE}\n"


def test_nothing_is_lost_where_the_process_crashes():
    done = run_filter("crash")
    assert done.returncode < 0
    assert done.stderr.startswith(KEPT)
    assert LINE not in done.stderr


def test_an_import_that_fails_is_told():
    done = run_filter("raise")
    assert done.returncode == 1
    assert done.stderr.startswith(KEPT)
    assert "ImportError: no such library" in done.stderr


def test_a_closed_standard_error_is_no_error():
    program = (
        "from candle_tf.runtime_messages import drop_runtime_messages\n"
        "with drop_runtime_messages(): print('done')"
    )
    command = ["bash", "-c", 'exec "$0" -c "$1" 2>&-', sys.executable, program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")


@pytest.mark.parametrize(
    "line",
    [
        "E0000 1 cuda_dnn.cc:1] Loaded runtime CuDNN library: 9.1 but",
        "F0000 1 cpu_feature_guard.cc:1] compiled to use AVX2",
        "2026 F tensorflow/x.cc:1] oneDNN custom operations are on",
        "E0000 1 tf_tfl_flatbuffer_helpers.cc:1] the model cannot be converted",
    ],
)
def test_errors_are_none_of_the_harmless_lines(line):
    assert not re.match("|".join(HARMLESS), line)

"""One process in a folder at a time."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import candle_tf
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.folder_lock import lock_folder
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.pretrain_settings import Pretraining, open_pretraining

HOLDER = """
import sys, time
from pathlib import Path
from candle_tf.folder_lock import lock_folder
lock = lock_folder(Path(sys.argv[1]))
print("held", flush=True)
time.sleep(600)
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the folder."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)],
        cwd=Path(candle_tf.__file__).parents[1],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize(
    "open_folder",
    [
        lambda path: open_run_folder(Config(run_dir=path)),
        lambda path: open_pretraining(Pretraining(run_dir=path)),
    ],
    ids=["run", "pretraining"],
)
def test_the_second_process_is_told_who_holds_it(tmp_path, holder, open_folder):
    with pytest.raises(UserError, match=rf"in use by process {holder.pid} on "):
        open_folder(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_a_killed_process_holds_nothing(tmp_path, holder):
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    assert open_run_folder(Config(run_dir=str(tmp_path))).lock is not None


def test_the_same_process_opens_it_again(tmp_path):
    first = lock_folder(tmp_path)
    assert first is not None
    assert lock_folder(tmp_path) is None
    first.close()
    assert lock_folder(tmp_path) is not None


@pytest.mark.skipif(os.getuid() != 0, reason="only root makes a namespace of process ids")
def test_a_process_with_the_same_number_is_refused(tmp_path):
    """As in containers, where a program's number is often 1."""
    namespace = ["unshare", "--pid", "--fork"]
    if subprocess.run([*namespace, "true"], capture_output=True, check=False).returncode:
        pytest.skip("this machine makes no namespaces of process ids")
    root = Path(candle_tf.__file__).parents[1]
    command = [*namespace, "--kill-child", sys.executable, "-c", HOLDER, str(tmp_path)]
    with subprocess.Popen(command, cwd=root, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdout is not None
        assert first.stdout.readline() == "held\n"
        try:
            second = subprocess.run(
                command, cwd=root, capture_output=True, text=True, timeout=60, check=False
            )
        finally:
            first.kill()
    assert second.returncode == 1
    assert f"{tmp_path} is in use by process 1 on " in second.stderr

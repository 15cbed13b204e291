"""Two workers on the loopback, through the main: the figures of one process, killed and resumed."""

import csv
import json
import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest

import candle_tf
from candle_tf.config import Config
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.calibrate import calibrate
from candle_tf.stages.prepare import prepare
from candle_tf.stages.train import train_student
from candle_tf.students.compute_policy import ComputePolicy
from tests.command import Command
from tools.benchmarks.workers import free_ports

ROOT = Path(candle_tf.__file__).parents[1]
EPOCHS = 3
SETTINGS = {
    "plugin": "tests.tiny_parts",
    "student": "tiny_student",
    "width": 0.25,
    "teacher": "tiny_teacher",
    "teacher_view": "same",
    "views": 2,
    "profile": "counts",
    "class_counts": "30,24,20,16,12,10,8,8,6,6",
    "validation_fraction": 0.2,
    "image_size": 16,
    "stem_stride": 1,
    "augmentation": "pad_crop",
    "calibration_resolutions": (32,),
    "calibration_epochs": 2,
    "calibration_batch_size": 32,
    "batch_size": 16,
    "epochs": EPOCHS,
    "precision": "float32",
    "export_teacher": "off",
    "kernels": "plain",
    # Its gradient is the larger one here, and rounding soon changes a sign of a weight.
    "label_weight": "0",
}
# Sentences that end a worker are there within a minute; a busy machine may take longer.
SECONDS = 300


def _start_workers(run_dir: Path) -> list[Command]:
    flags = [
        f"--{name}={','.join(map(str, value)) if isinstance(value, tuple) else value}"
        for name, value in {**SETTINGS, "run_dir": run_dir}.items()
    ]
    cluster = {"worker": [f"localhost:{port}" for port in free_ports(2)]}
    return [
        Command(
            "candle_tf.train",
            *flags,
            TF_CONFIG=json.dumps({"cluster": cluster, "task": {"type": "worker", "index": index}}),
        )
        for index in range(2)
    ]


def _end(worker: Command) -> tuple[str, int]:
    """What a worker printed, and its exit code."""
    worker.wait(SECONDS)
    done = worker.result()
    return done.stdout + done.stderr, done.returncode


def _epochs_done(folder: Path) -> int:
    path = folder / "checkpoints" / "progress.json"
    return len(json.loads(path.read_text())["history"]) if path.exists() else 0


@pytest.fixture(scope="module")
def killed_and_resumed(tmp_path_factory):
    """Run folder, and what both workers printed when one was killed, and when they resumed."""
    run_dir = tmp_path_factory.mktemp("workers") / "two"
    workers = _start_workers(run_dir)
    while _epochs_done(run_dir / "student") < 1:
        assert workers[1].poll() is None, workers[1].result().stderr[-3000:]
        time.sleep(0.1)
    os.kill(workers[1].pid, signal.SIGKILL)
    killed = [_end(worker) for worker in workers]
    assert _epochs_done(run_dir / "student") < EPOCHS
    resumed = [_end(worker) for worker in _start_workers(run_dir)]
    return run_dir, killed, resumed


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The run folder of one process, in which calibration and training are done."""
    config = Config(**SETTINGS, run_dir=str(tmp_path_factory.mktemp("workers") / "one"))
    folder = open_run_folder(config)
    data = prepare(config, folder)
    calibrated = calibrate(config, data, folder.path / "calibrate")
    path = folder.path / "student"
    train_student(config, data, calibrated.targets, path, ComputePolicy(), calibrated)
    return folder.path


def _columns(path: Path) -> dict[str, np.ndarray]:
    rows = list(csv.DictReader(path.open()))
    return {
        name: np.array([float(row[name]) for row in rows]) for name in rows[0] if name != "seconds"
    }


def test_a_killed_worker_ends_the_other_with_one_sentence(killed_and_resumed):
    _, ((chief, chief_code), (_, code)), _ = killed_and_resumed
    assert code == -signal.SIGKILL
    assert chief_code == 3
    last = chief.strip().splitlines()[-1]
    assert last.startswith("error: worker 1 (localhost:")
    assert "The same command on all workers resumes after the last whole epoch." in last
    assert "Traceback" not in chief


def test_the_same_command_on_all_finishes_the_run(killed_and_resumed):
    run_dir, _, resumed = killed_and_resumed
    for printed, code in resumed:
        assert code == 0, printed[-3000:]
        assert "student as LCE file" in printed
    assert f"student: resumes after epoch 1 of {EPOCHS}" in resumed[0][0]
    assert _epochs_done(run_dir / "student") == EPOCHS
    for name in ("report.html", "export/student.lce.tflite", "export/saved_model/1"):
        assert (run_dir / name).exists()
    # One of them wrote.
    assert len(list((run_dir / "student" / "tensorboard" / "train").glob("events*"))) <= 2
    assert len((run_dir / "student" / "history.csv").read_text().splitlines()) == 1 + EPOCHS


def test_both_workers_computed_the_cache_together(killed_and_resumed):
    _, _, resumed = killed_and_resumed
    assert not any("features-32px: computing" in printed for printed, _ in resumed)


@pytest.mark.parametrize("stage", ["calibrate", "student"])
def test_two_workers_give_the_figures_of_one_process(killed_and_resumed, alone, stage):
    """To rounding; later steps of a binary student also differ by the signs that rounding flips."""
    run_dir, _, _ = killed_and_resumed
    ours, theirs = (_columns(folder / stage / "steps.csv") for folder in (run_dir, alone))
    assert ours.keys() == theirs.keys()
    first = 4 if stage == "student" else None
    for name, expected in theirs.items():
        np.testing.assert_allclose(ours[name][:first], expected[:first], rtol=1e-4, err_msg=name)
        np.testing.assert_allclose(ours[name], expected, rtol=0.2, err_msg=name)
    split, other = (json.loads((f / "split.json").read_text()) for f in (run_dir, alone))
    assert split == other

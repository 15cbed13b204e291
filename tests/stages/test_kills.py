"""A run that is killed at its writes, one after the other, ends as if nothing had happened."""

import hashlib
import re
import signal
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.reporting.results import read_results
from tests.command import start

FLAGS = [
    "--dataset=digits", "--imbalance_factor=5", "--image_size=16", "--stem_stride=1",
    "--plugin=tests.tiny_parts", "--student=tiny_student", "--teacher=tiny_teacher",
    "--augmentation=pad_crop",
    "--calibration_resolutions=32", "--calibration_epochs=2", "--batch_size=64", "--epochs=3",
    "--export_teacher=off",
]  # fmt: skip

# In the order in which a run comes to them; each kill is of the process that resumes after the one
# before.
KILLS = [
    ("before", r"split\.json$"),
    ("after", r"split\.json$"),
    ("before", r"features-.*\.json$"),
    ("while", r"calibrate/checkpoints/epoch-0001$"),
    ("before", r"calibrate/checkpoints/progress\.json$"),
    ("while", r"student/checkpoints/epoch-0002$"),
    ("after", r"student/checkpoints/progress\.json$"),
    ("before", r"student\.lce\.tflite$"),
    ("after", r"saved_model/1$"),
    ("before", r"export\.json$"),
    ("before", r"report\.json$"),
    ("after", r"report\.html$"),
]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("whole") / "run"
    done = start("candle_tf.train", *FLAGS, f"--run_dir={run_dir}")
    assert done.returncode == 0, done.stderr[-2000:]
    return run_dir


@pytest.fixture(scope="module")
def killed_and_told(tmp_path_factory):
    """A run folder after all kills and one undisturbed end, and what each process told."""
    run_dir = tmp_path_factory.mktemp("killed") / "run"
    told = []
    for when, pattern in KILLS:
        arguments = [when, pattern, *FLAGS, f"--run_dir={run_dir}"]
        done = start("tests.stages.killed_train", *arguments)
        assert done.returncode == -signal.SIGKILL, (when, pattern, done.stderr[-2000:])
        told.append(done.stderr)
    done = start("candle_tf.train", *FLAGS, f"--run_dir={run_dir}")
    assert done.returncode == 0, done.stderr[-2000:]
    return run_dir, [*told, done.stderr]


@pytest.fixture(scope="module")
def killed(killed_and_told):
    return killed_and_told[0]


def weights(run_dir: Path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(run_dir / "student" / "checkpoints" / "epoch-0003"))
    names = [name for name in reader.get_variable_to_shape_map() if "OBJECT_GRAPH" not in name]
    return {name: reader.get_tensor(name) for name in names}


def test_weights_are_equal_to_the_bit(whole, killed):
    wanted, found = weights(whole), weights(killed)
    assert set(found) == set(wanted)
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)


def test_each_process_tells_where_it_resumes(killed_and_told):
    _, told = killed_and_told
    after = dict(zip(KILLS, told[1:], strict=True))
    for kill, stage, epoch in (
        (("before", r"calibrate/checkpoints/progress\.json$"), "calibrate", None),
        (("while", r"student/checkpoints/epoch-0002$"), "calibrate", "2 of 2"),
        (("while", r"student/checkpoints/epoch-0002$"), "student", "1 of 3"),
        (("after", r"student/checkpoints/progress\.json$"), "student", "2 of 3"),
        (("before", r"report\.json$"), "student", "3 of 3"),
    ):
        found = re.findall(rf"{stage}: resumes after epoch (\d+ of \d+)", after[kill])
        assert found == ([epoch] if epoch else []), (kill, stage)


def test_logs_and_figures_are_equal(whole, killed):
    for name in ("calibrate/steps.csv", "student/steps.csv"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes(), name
    assert (
        read_results(killed / "report.json").metrics == read_results(whole / "report.json").metrics
    )


def test_files_for_the_device_are_equal(whole, killed):
    for name in ("student.lce.tflite", "student.float.tflite"):
        digests = [hashlib.sha256((run / "export" / name).read_bytes()).hexdigest()
                   for run in (whole, killed)]  # fmt: skip
        assert digests[0] == digests[1], name


def test_nothing_unfinished_is_left(whole, killed):
    def names(run_dir: Path) -> set[str]:
        files = {str(path.relative_to(run_dir)) for path in run_dir.rglob("*")}
        # TensorBoard begins a file of its own in each process; a number of an export is used once.
        own = {name for name in files if "tensorboard" not in name and "saved_model/" not in name}
        return {name for name in own if not name.startswith("cache/")}

    assert not [path for path in killed.rglob("*") if "unfinished" in path.name]

    assert names(killed) == names(whole)
    versions = [path.name for path in (killed / "export" / "saved_model").iterdir()]
    assert all(name.isdigit() for name in versions)

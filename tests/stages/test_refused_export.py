"""An export that a check refuses: reported, kept aside, and repeated without training again."""

import re
from pathlib import Path

import pytest

from candle_tf.deploy.exported_student import load_exported
from candle_tf.errors import UserError
from candle_tf.reporting.results import read_results
from candle_tf.serving.versions import Versions
from tests.command import start

FLAGS = [
    "--dataset=digits", "--method=cross_entropy", "--imbalance_factor=5", "--image_size=16",
    "--stem_stride=1", "--plugin=tests.tiny_parts", "--student=tiny_student", "--batch_size=64",
    "--epochs=1",
]  # fmt: skip


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("refused") / "run"


@pytest.fixture(scope="module")
def refused(run_dir):
    """What was printed where first the file for the engine, and then the SavedModel was wrong."""
    done = {}
    for what in ("tflite", "saved_model"):
        done[what] = start("tests.stages.refused_train", what, *FLAGS, f"--run_dir={run_dir}")
        done[what].names = sorted(path.name for path in (run_dir / "export").iterdir())
        done[what].results = read_results(run_dir / "report.json")
    return done


@pytest.mark.parametrize("what", ["tflite", "saved_model"])
def test_the_runs_figures_are_reported_and_the_refusal_is_told(refused, what):
    done = refused[what]
    assert done.returncode == 2, done.stderr[-2000:]
    assert "student in Keras, selected epoch" in done.stdout
    assert "student as LCE file" not in done.stdout
    assert "Traceback" not in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: ")
    assert ".refused" in last
    assert done.results.refused
    assert done.results.refused in last
    assert 0 < done.results.metrics["student"].mean <= 1


def test_a_refused_file_is_kept_where_nothing_takes_it(refused, run_dir):
    assert refused["tflite"].names == ["student.lce.tflite.refused"]
    assert "has no convolution with the kernel of" in refused["tflite"].stderr
    # The files for devices were right this time, and the one that had been refused is gone.
    assert refused["saved_model"].names == [
        "saved_model", "saved_model.refused", "student.float.tflite", "student.json",
        "student.lce.tflite",
    ]  # fmt: skip
    assert "saved_model does not compute" in refused["saved_model"].stderr
    assert (run_dir / "export" / "saved_model.refused" / "saved_model.pb").is_file()
    assert not list((run_dir / "export" / "saved_model").iterdir())
    versions = Versions("student", run_dir / "export" / "saved_model")
    versions.poll()
    assert not versions.is_ready()
    with pytest.raises(UserError, match="no numbered SavedModel"):
        load_exported(run_dir, "saved_model")
    assert load_exported(run_dir).runtime == "lce"
    page = (run_dir / "report.html").read_text()
    assert "a check refused it" in page
    assert not (run_dir / "export" / "model_card.md").exists()


def test_the_same_command_exports_without_training_again(refused, run_dir):  # noqa: ARG001
    checkpoints = {path: path.stat().st_mtime_ns for path in (run_dir / "student").rglob("epoch-*")}
    assert checkpoints
    done = start("candle_tf.train", *FLAGS, f"--run_dir={run_dir}")
    assert done.returncode == 0, done.stderr[-2000:]
    # Nor does the runtime say anything in a run that goes well.
    assert not re.search(
        r"^[EWI]\d{4} |InitializeLog|XNNPACK|Importing a function", done.stderr, re.M
    )
    assert {path: path.stat().st_mtime_ns for path in checkpoints} == checkpoints
    assert not list((run_dir / "export").glob("*.refused"))
    assert (run_dir / "export" / "saved_model" / "1" / "saved_model.pb").is_file()
    results = read_results(run_dir / "report.json")
    assert results.refused == ""
    assert results.export["signs"]["tflite"]["farthest_flipped"] < 1e-3
    assert "tflite" in results.metrics


def test_the_files_of_the_student_before_are_not_those_of_a_refused_one(refused, run_dir):  # noqa: ARG001
    flags = [*FLAGS, "--epochs=2", f"--run_dir={run_dir}"]
    done = start("tests.stages.refused_train", "tflite", *flags)
    assert done.returncode == 2, done.stderr[-2000:]
    assert (run_dir / "export" / "student.float.tflite").is_file()
    for runtime in ("lce", "float", "saved_model"):
        with pytest.raises(UserError, match="may hold another student"):
            load_exported(run_dir, runtime)
    done = start("candle_tf.train", *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    assert load_exported(run_dir).labels == tuple("0123456789")

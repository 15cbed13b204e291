"""The benchmark of TFLite files, on two small ones."""

import hashlib
import json
import re
from pathlib import Path

import pytest

from candle_tf.deploy.tflite.converter import convert, convert_float
from candle_tf.errors import UserError
from tests.command import start_from_nothing
from tests.deploy.test_binarize import small_student
from tools.bench_latency import folders


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    export = folder / "export"
    export.mkdir()
    (export / "student.lce.tflite").write_bytes(convert(small_student()))
    (export / "student.float.tflite").write_bytes(convert_float(small_student()))
    digest = hashlib.sha256((export / "student.lce.tflite").read_bytes()).hexdigest()
    facts = {"argmax_agreement": 0.75, "accuracy": {"mean": 0.5, "few": 0.25}}
    files = {
        "student.lce.tflite": {"sha256": digest, **facts},
        "student.float.tflite": {"sha256": "of another file", **facts},
    }
    (export / "student.json").write_text(json.dumps({"files": files}))
    return folder


def test_files_are_timed_against_the_float_reference_with_their_accuracy(run_dir, tmp_path):
    path = tmp_path / "figures.json"
    done = start_from_nothing(
        "tools.bench_latency",
        str(run_dir),
        "--rounds=2",
        "--threads=1",
        "--alphas=",
        f"--json={path}",
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert not re.search("E0000|W0000|InitializeLog|XNNPACK delegate", done.stderr), done.stderr
    (comparison,) = json.loads(path.read_text())["comparisons"]
    assert comparison["baseline"] == "student.float.tflite"
    rows = {row["file"]: row for row in comparison["rows"]}
    lce, reference = rows["student.lce.tflite"], rows["student.float.tflite"]
    assert (lce["runtime"], reference["runtime"]) == ("LCE, indirect", "LiteRT, XNNPACK")
    assert (reference["ratio"], reference["ratio_min"], reference["ratio_max"]) == (1, 1, 1)
    assert 0 < lce["ratio_min"] <= lce["ratio"] <= lce["ratio_max"]
    assert 0 < lce["low_ms"] <= lce["median_ms"] <= lce["high_ms"]
    assert lce["bytes"] == (run_dir / "export" / "student.lce.tflite").stat().st_size
    assert lce["argmax_agreement"] == 0.75
    # What student.json says of a file with another hash is not said of this one.
    assert "accuracy" not in reference
    for words in ("time / float32", "50.0", "25.0", "75.0"):
        assert words in done.stdout


def test_a_single_file_brings_its_float_reference(run_dir):
    export = run_dir / "export"
    lce, reference = export / "student.lce.tflite", export / "student.float.tflite"
    assert folders([str(lce)]) == [[lce, reference]]
    assert folders([str(run_dir)]) == folders([str(export)]) == [[reference, lce]]


@pytest.mark.parametrize("arguments", [[], ["missing.tflite"], ["."]])
def test_what_is_no_file_is_refused(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=r"TFLite file"):
        folders(arguments)


def test_figures_that_could_not_be_written_are_refused_before_the_files_are_timed(
    run_dir, tmp_path
):
    done = start_from_nothing("tools.bench_latency", str(run_dir), f"--json={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} cannot be written" in done.stderr


@pytest.mark.parametrize(
    ("flag", "said"), [("--threads=x", "--threads=x"), ("--alphas=-1", "above 0")]
)
def test_bad_numbers_are_refused_with_the_flags_name(flag, said, run_dir):
    done = start_from_nothing("tools.bench_latency", str(run_dir), flag)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert said in done.stderr

"""The table of files to ship, of made runs with small files."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from candle_tf.deploy.tflite.converter import convert, convert_float
from candle_tf.errors import UserError
from candle_tf.files import sha256_of_file
from candle_tf.metrics import evaluate_logits
from candle_tf.reporting.results import Results, read_results, write_results
from tests.command import start
from tests.deploy.test_binarize import SIZE, small_student
from tools import device_table
from tools.device_table import files_of

LABELS = np.repeat(np.arange(2), 10)
GROUPS = {"many": np.array([0]), "few": np.array([1])}
# Of the 10 images of each class, those that a file has right.
RIGHT = {"tflite": (9, 4), "tflite_float": (10, 4), "teacher_int8": (10, 8)}


def other_file() -> bytes:
    """A TFLite file that is quickly made, to stand for a teacher's."""
    layers = [tf.keras.layers.GlobalAveragePooling2D(), tf.keras.layers.Dense(2)]
    network = tf.keras.Sequential([tf.keras.Input((32, 32, 3)), *layers])
    return tf.lite.TFLiteConverter.from_keras_model(network).convert()


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list[Path]:
    """A run with all three files, and one without a teacher whose student is the same."""
    base = tmp_path_factory.mktemp("runs")
    export = base / "whole" / "export"
    export.mkdir(parents=True)
    (export / "student.lce.tflite").write_bytes(convert(small_student()))
    (export / "student.float.tflite").write_bytes(convert_float(small_student()))
    shutil.copytree(base / "whole", base / "alone")
    (export / "teacher.int8.tflite").write_bytes(other_file())
    metrics = {}
    for name, right in RIGHT.items():
        hits = np.tile(np.arange(10), 2) < np.array(right)[LABELS]
        logits = np.eye(2)[np.where(hits, LABELS, 1 - LABELS)]
        metrics[name] = evaluate_logits(logits, LABELS, GROUPS, ["a", "b"])
    cost = {"OPs (binary multiply-adds / 64 + those in float)": 2.5e6}
    settings = {"image_size": SIZE}
    told = {"cost": cost, "teacher_int8": {"resolution": 32}}
    whole = Results(settings, {}, 1, 1, metrics, {}, told)
    write_results(whole, base / "whole" / "report.json")
    del metrics["teacher_int8"], told["teacher_int8"]
    alone = Results(settings, {}, 1, 1, metrics, {}, told)
    write_results(alone, base / "alone" / "report.json")
    return [base / "whole", base / "alone"]


@pytest.mark.parametrize("changed", ["sha256", "accuracy"])
def test_a_file_that_was_replaced_after_the_report_is_refused(runs, tmp_path, changed):
    run = tmp_path / "run"
    shutil.copytree(runs[1], run)
    measured = read_results(run / "report.json").metrics["tflite"]
    path = run / "export" / "student.lce.tflite"
    told = {
        "sha256": sha256_of_file(path),
        "accuracy": {"mean": measured.mean, **measured.groups},
    }
    sidecar = path.with_name("student.json")
    sidecar.write_text(json.dumps({"files": {path.name: told}}))
    assert len(files_of([run])) == 2
    other = {"sha256": "0" * 64, "accuracy": {"mean": 0.5, "many": 0.5, "few": 0.5}}
    sidecar.write_text(json.dumps({"files": {path.name: {**told, changed: other[changed]}}}))
    with pytest.raises(UserError, match="the run was continued"):
        files_of([run])


def test_a_teachers_file_that_was_swapped_is_refused(runs, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(runs[0], run)
    results, path = read_results(run / "report.json"), run / "export" / "teacher.int8.tflite"
    measured, size = sha256_of_file(path), path.stat().st_size
    swapped, longer = path.read_bytes()[::-1], path.read_bytes() + b"x"
    for told, others in (
        ({"sha256": measured, "bytes": size}, (swapped, longer)),
        # Older runs.
        ({"bytes": size}, (longer,)),
    ):
        shutil.copy(runs[0] / "export" / path.name, path)
        record = {**results.export["teacher_int8"], **told}
        export = {**results.export, "teacher_int8": record}
        write_results(replace(results, export=export), run / "report.json")
        assert len(files_of([run])) == 3
        for other in others:
            path.write_bytes(other)
            for place in (run, path):
                with pytest.raises(UserError, match=r"teacher\.int8\.tflite is not the file"):
                    files_of([place])


def test_every_file_is_told_once_with_its_own_accuracy_size_and_time(runs, tmp_path):
    paths = [tmp_path / "devices.csv", tmp_path / "devices.png"]
    flags = ("--rounds=2", f"--csv={paths[0]}", f"--plot={paths[1]}")
    done = start("tools.device_table", *map(str, runs), *flags)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {row["file"]: row for row in csv.DictReader(paths[0].open())}
    assert list(rows) == ["binary student", "its float32 reference", "teacher in int8"]
    export = runs[0] / "export"
    for title, name, kind in (
        ("binary student", "student.lce.tflite", "tflite"),
        ("its float32 reference", "student.float.tflite", "tflite_float"),
        ("teacher in int8", "teacher.int8.tflite", "teacher_int8"),
    ):
        row, (first, second) = rows[title], RIGHT[kind]
        assert int(row["bytes"]) == (export / name).stat().st_size
        assert (row["many"], row["few"]) == (f"{10 * first:.1f}", f"{10 * second:.1f}")
        assert row["mean %"] == f"{5 * (first + second):.1f}"
        low, high = map(float, row["range"].split("-"))
        assert 0 < low <= float(row["time"]) <= high
    assert float(rows["its float32 reference"]["time"]) == 1
    assert rows["binary student"]["OPs"] == "2.5 M"
    assert (rows["binary student"]["px"], rows["teacher in int8"]["px"]) == (str(SIZE), "32")
    assert paths[1].read_bytes().startswith(b"\x89PNG")


def test_runs_on_other_splits_are_told_apart(runs, tmp_path):
    places = []
    for name, split in (("a", "1" * 64), ("b", "1" * 64), ("c", "2" * 64)):
        shutil.copytree(runs[1], tmp_path / name)
        results = replace(read_results(runs[1] / "report.json"), split={"hash": split})
        write_results(results, tmp_path / name / "report.json")
        places.append(tmp_path / name)
    # The same files, of which each split has accuracies of its own.
    assert [file.run for file in files_of(places)] == ["a", "a", "c", "c"]
    for given, splits in ((places[:2], 1), (places, 2)):
        path = tmp_path / "devices.csv"
        done = start("tools.device_table", *map(str, given), "--rounds=1", f"--csv={path}")
        assert done.returncode == 0, done.stderr[-2000:]
        assert {row["split"] for row in csv.DictReader(path.open())} == set(
            ["1" * 12, "2" * 12][:splits]
        )
        assert ("compare accuracies of one split alone" in done.stdout) is (splits == 2)
        assert ("2" * 12 in done.stdout) is (splits == 2)


def test_one_file_of_a_run_comes_alone(runs):
    (found,) = files_of([runs[0] / "export" / "teacher.int8.tflite"])
    assert (found.kind, found.run, found.side) == ("teacher_int8", "whole", 32)
    assert found.accuracies["mean"] == pytest.approx(0.9)


def test_runs_without_files_are_refused(runs, tmp_path):
    (tmp_path / "report.json").write_bytes((runs[0] / "report.json").read_bytes())
    with pytest.raises(UserError, match="the run has exported no TFLite file"):
        files_of([tmp_path])
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text('{"method": "candle"}')
    with pytest.raises(UserError, match="the run has not finished"):
        files_of([tmp_path / "begun"])
    with pytest.raises(UserError, match=r"There is no .*nowhere: give a run's folder"):
        files_of([tmp_path / "nowhere"])


def test_no_place_that_was_given_is_left_out(runs, tmp_path):
    (tmp_path / "report.json").write_bytes((runs[0] / "report.json").read_bytes())
    with pytest.raises(UserError, match="the run has exported no TFLite file"):
        files_of([runs[0], tmp_path])
    (tmp_path / "old").mkdir()
    for other in (runs[0] / "report.json", tmp_path / "old" / "student.lce.tflite"):
        other.touch()
        with pytest.raises(UserError, match=r"is none of student\.lce\.tflite"):
            files_of([other])


def test_outputs_that_cannot_be_written_are_refused_before_the_files_are_timed(tmp_path):
    for outputs in (("", str(tmp_path)), (str(tmp_path), "")):
        with pytest.raises(UserError, match="cannot be written"):
            device_table.main([tmp_path / "nowhere"], 1, *outputs)
    with pytest.raises(UserError, match="--csv and --plot are both"):
        device_table.main([tmp_path / "nowhere"], 1, f"{tmp_path}/x", f"{tmp_path}/y/../x")

"""An export of another student than the one that its run's report tells of is not taken."""

import json
import shutil

import pytest

from candle_tf.deploy.exported_student import find_saved_models, load_exported
from candle_tf.deploy.reported_export import refuse_other_student
from candle_tf.errors import UserError
from tools.bench_latency import folders

REASON = "student.lce.tflite is not binary."


@pytest.fixture
def run(tmp_path):
    """A run whose files are of the student before the one that is reported."""
    export = tmp_path / "run/export"
    (export / "saved_model/1").mkdir(parents=True)
    (export / "saved_model/1/saved_model.pb").touch()
    (export / "student.lce.tflite").touch()
    (export / "student.json").write_text(json.dumps({"labels": [], "files": {}, "input": {}}))
    tell(tmp_path / "run", refused=REASON, stages=["report"])
    return tmp_path / "run"


def tell(run, refused, stages):
    (run / "report.json").write_text(json.dumps({"refused": refused}))
    (run / "manifest.json").write_text(json.dumps({"stages": {name: {} for name in stages}}))


@pytest.mark.parametrize("given", ["", "export", "export/student.lce.tflite"])
def test_the_files_of_an_earlier_student_are_not_loaded(run, given, monkeypatch):
    for path in (run / given, "."):
        monkeypatch.chdir((run / given).parent if given.endswith("tflite") else run / given)
        with pytest.raises(UserError, match="may hold another student") as told:
            load_exported(path)
        assert REASON in str(told.value)
        assert "Start the run again" in str(told.value)


@pytest.mark.parametrize("given", ["", "export", "export/saved_model", "export/saved_model/1"])
def test_the_saved_models_of_an_earlier_student_are_not_served_or_loaded(run, given):
    with pytest.raises(UserError, match="may hold another student"):
        find_saved_models(run / given)
    with pytest.raises(UserError, match="may hold another student"):
        load_exported(run / given, "saved_model")


def test_the_files_of_an_earlier_student_are_not_timed(run):
    for given in (run, run / "export", run / "export/student.lce.tflite"):
        with pytest.raises(UserError, match="may hold another student"):
            folders([str(given)])


def test_of_a_refused_saved_model_the_files_for_devices_are_those_of_the_report(run):
    (run / "export/saved_model.refused").mkdir()
    refuse_other_student(run / "export", is_saved_model=False)
    with pytest.raises(UserError, match="may hold another student"):
        refuse_other_student(run / "export", is_saved_model=True)
    # Another student after that, whose first file was refused.
    (run / "export/student.float.tflite.refused").touch()
    with pytest.raises(UserError, match="may hold another student"):
        refuse_other_student(run / "export", is_saved_model=False)


def test_a_report_without_an_export_does_not_hide_whose_files_are_there(run):
    """As after a refusal the same command with --export_student=off."""
    tell(run, refused="", stages=["student", "report"])
    with pytest.raises(UserError, match="that is not finished"):
        load_exported(run)


def test_a_finished_export_and_one_without_its_run_are_taken(run, tmp_path):
    tell(run, refused="", stages=["report", "export"])
    assert find_saved_models(run) == run / "export/saved_model"
    tell(run, refused=REASON, stages=["report"])
    copy = shutil.copytree(run / "export", tmp_path / "copy/export")
    assert find_saved_models(copy) == copy / "saved_model"
    (run / "manifest.json").unlink()
    (run / "report.json").write_text('{"refused": ""}')
    assert find_saved_models(run) == run / "export/saved_model"


def test_a_damaged_report_or_manifest_is_told(run):
    tell(run, refused="", stages=["report", "export"])
    for name in ("manifest.json", "report.json"):
        (run / name).write_text("{")
        with pytest.raises(UserError, match=f"{name} is damaged"):
            load_exported(run)

"""Messages for folders that are no run's, where one was asked for."""

import dataclasses
import json

import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.data.cached_arrays import stored_array
from candle_tf.deploy.exported_student import find_saved_models, load_exported
from candle_tf.errors import UserError
from candle_tf.reporting.results import read_results
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.pretrain_settings import Pretraining, write_pretraining
from tools.tables.cells import Cell


def refusals(path):
    """What each way to open a run says of a path: `load`, `serve` and `report`."""
    messages = []
    for read in (load_exported, find_saved_models, lambda path: read_results(path / "report.json")):
        with pytest.raises(UserError) as caught:
            read(path)
        messages.append(str(caught.value))
    return messages


@pytest.fixture
def pretraining(tmp_path):
    settings = Pretraining(data_dir="images.zip", run_dir=str(tmp_path / "pretrained"))
    (tmp_path / "pretrained").mkdir()
    write_pretraining(settings)
    return tmp_path / "pretrained"


@pytest.mark.parametrize("name", ["", "config.json"])
def test_a_pretraining_that_is_not_finished_is_told(pretraining, name):
    for message in refusals(pretraining / name):
        assert message.startswith(f"{pretraining} is the folder of a pretraining")
        assert "Finish it by the same command. Train with its weights" in message
        assert f"--student_weights={pretraining / 'student.safetensors'}" in message


@pytest.mark.parametrize("lost", ["config.json", "student.json"])
def test_a_pretraining_is_known_by_either_of_its_files(pretraining, lost):
    card = {"file": "student.safetensors", "student": {"name": "reactnet_a"}}
    (pretraining / "student.json").write_text(json.dumps(card))
    (pretraining / "student.safetensors").write_bytes(b"weights")
    (pretraining / lost).write_text("{")
    for message in refusals(pretraining):
        assert message.startswith(f"{pretraining} is the folder of a pretraining")
        assert "Finish" not in message


def test_a_training_in_the_folder_of_a_pretraining_is_refused(pretraining):
    before = (pretraining / "config.json").read_bytes()
    with pytest.raises(UserError, match=r"settings of a pretraining.*Give another folder"):
        open_run_folder(Config(run_dir=str(pretraining)))
    assert (pretraining / "config.json").read_bytes() == before


def test_of_a_table_the_runs_are_named(tmp_path):
    for number in range(5):
        run = Cell({"method": "row"}, number, "", {}).run_path(tmp_path)
        run.mkdir(parents=True)
        (run / "config.json").write_text("{}")
        (run / "report.json").write_text("{}")
    for path in (tmp_path, tmp_path / "runs"):
        for message in refusals(path):
            assert message.startswith(f"{path} is no run, but holds finished runs: give one of ")
            assert f"{tmp_path}/runs/row-0, " in message
            assert message.endswith("row-2 and 2 more.")


def test_a_cache_is_told(tmp_path):
    def compute(start, stop):
        return np.zeros((stop - start, 3), np.uint8)

    stored_array(tmp_path, "scan", {"of": "nothing"}, (4, 3), "uint8", 2, compute)
    for message in refusals(tmp_path):
        assert message.startswith(f"{tmp_path} is a folder of cached arrays (--cache_dir)")


def test_images_are_no_run_that_has_not_finished(tmp_path):
    (tmp_path / "cat").mkdir()
    (tmp_path / "cat" / "1.png").write_bytes(b"x")
    *exports, report = refusals(tmp_path)
    assert all("holds no export" in message for message in exports)
    assert f"{tmp_path} is no folder of a run" in report
    assert "has not finished" not in report


def test_a_run_that_has_not_finished_is_still_told_as_one(tmp_path):
    Config(run_dir=str(tmp_path)).to_json(tmp_path / "config.json")
    *exports, report = refusals(tmp_path)
    assert all("is a run without an export" in message for message in exports)
    assert "the run has not finished. Start it again" in report


def test_of_an_export_and_of_a_file_the_run_is_named(tmp_path):
    export = tmp_path / "run" / "export"
    export.mkdir(parents=True)
    (export / "student.json").write_text(json.dumps({"labels": ["a"], "files": {}, "input": {}}))
    (tmp_path / "run" / "report.json").write_text("{}")
    for path, told in (
        (export, "is the export of a run: give the folder of the run itself"),
        (export / "student.json", "is a file: give the folder of its run"),
        (tmp_path / "run" / "report.json", "is a file: give the folder of its run"),
    ):
        with pytest.raises(UserError) as caught:
            read_results(path / "report.json")
        assert str(caught.value) == f"{path} {told}, {tmp_path / 'run'}."


def test_settings_of_a_run_and_of_a_pretraining_are_told_apart():
    names = {field.name for field in dataclasses.fields(Pretraining)}
    assert "heldout_fraction" in names - set(Config().to_dict())
    assert "method" in set(Config().to_dict()) - names

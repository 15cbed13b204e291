"""Room for checkpoints and exported files is added up, and asked for before training."""

import os
import re
import shutil
from pathlib import Path

import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.methods.checkpoints import Checkpoints
from candle_tf.methods.parameter_groups import build_parameter_groups
from candle_tf.run_folder import RunFolder
from candle_tf.stages import disk_space
from candle_tf.stages.disk_space import (
    DiskNeeds,
    disk_needs,
    require_export_space,
    weights_size,
)
from candle_tf.stages.export_requirements import check_export_requirements

SMALL = {"dataset": "digits", "image_size": 16, "stem_stride": 1, "width": 0.25}


@pytest.fixture
def config(tmp_path) -> Config:
    return Config(**SMALL, run_dir=str(tmp_path / "run"))


def set_free(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    usage = shutil.disk_usage("/")._replace(free=free)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)


def sum_of(needs: DiskNeeds) -> int:
    return sum(needs.parts.values())


def test_one_sentence_tells_the_bytes_needed_and_free(config, monkeypatch):
    set_free(monkeypatch, 10**6)
    with pytest.raises(UserError) as refusal:
        check_export_requirements(config, ("cat", "dog"), RunFolder(Path(config.run.run_dir)))
    parts = r"checkpoints: ([0-9.]+) MB, export: ([0-9.]+) MB, converting: ([0-9.]+) MB"
    found = re.match(
        rf"The rest of the run \({parts}\) needs ([0-9.]+) MB in .*, where 1\.0 MB are free\. "
        r"Make room and run the same command again: it resumes\.$",
        str(refusal.value),
    )
    assert found, refusal.value
    *each, together = map(float, found.groups())
    assert min(each) > 0
    assert together == pytest.approx(sum(each), abs=0.2)


def test_averages_of_weights_take_room_in_checkpoints(config, tmp_path):
    student, folder = config.student.build(2), RunFolder(tmp_path / "run")
    averaged = config.replace(weight_average=0.9)
    each = [disk_needs(c, student, folder).with_teacher(0, 1000) for c in (config, averaged)]
    weights = student.count_params() + 1000 * student.output["features"].shape[-1]
    added = each[1].parts["checkpoints"] - each[0].parts["checkpoints"]
    assert added == each[0].checkpoints * 4 * weights


def test_the_sum_decides_and_not_each(config, tmp_path, monkeypatch):
    needs = disk_needs(config, config.student.build(2), RunFolder(tmp_path / "run"))
    with_teacher = needs.with_teacher(5_000_000, 1280)
    assert with_teacher.parts["the teacher's int8 file"] > 5_000_000
    assert with_teacher.parts["checkpoints"] > needs.parts["checkpoints"]
    free = sum_of(with_teacher) + needs.temporary
    set_free(monkeypatch, free)
    with_teacher.require()
    set_free(monkeypatch, free - 1)
    needs.require()
    with pytest.raises(UserError, match=r"the teacher's int8 file: [0-9.]+ MB, converting"):
        with_teacher.require()


def test_a_folder_of_temporary_files_on_another_disk_is_asked_for_itself(config, monkeypatch):
    needs = disk_needs(config, config.student.build(2), RunFolder(Path(config.run.run_dir)))
    monkeypatch.setattr(disk_space, "_device", lambda folder: str(folder))
    set_free(monkeypatch, sum_of(needs))
    needs.require()
    set_free(monkeypatch, needs.temporary - 1)
    with pytest.raises(UserError, match="Converting the student needs"):
        needs.require()


@pytest.mark.parametrize("optimizer", ["adam", "bop", "adam_sgd"])
def test_checkpoints_are_no_larger_than_expected(config, tmp_path, optimizer):
    config = config.replace(optimizer=optimizer)
    student = config.student.build(2)
    folder = RunFolder(tmp_path / "run")
    expected = disk_needs(config, student, folder)
    trainer = tf.Module()
    trainer.student = student
    trainer.optimizers = [
        group.optimizer for group in build_parameter_groups(student, config.optimizer, steps=1)
    ]
    checkpoints = Checkpoints(folder.path / "student" / "checkpoints", trainer)
    checkpoints.save({"epoch": 1})
    written = sum(path.stat().st_size for path in checkpoints.folder.glob("epoch-*"))
    assert written > os.stat(checkpoints.folder / "progress.json").st_size
    assert expected.parts["checkpoints"] >= expected.checkpoints * written
    # Those that are there need no more room.
    resumed = disk_needs(config, student, folder)
    assert resumed.parts["checkpoints"] == expected.parts["checkpoints"] - written


def test_an_export_asks_again_where_the_student_was_trained_earlier(config, monkeypatch):
    folder = RunFolder(Path(config.run.run_dir))
    parameters = config.student.build(2).count_params()
    require_export_space(parameters, folder)
    set_free(monkeypatch, 10**6)
    with pytest.raises(UserError, match=r"export: [0-9.]+ MB, converting.* where 1\.0 MB are free"):
        require_export_space(parameters, folder)


def test_each_earlier_phase_leaves_checkpoints(config, tmp_path):
    student, folder = config.student.build(2), RunFolder(tmp_path / "run")
    one = disk_needs(config, student, folder)
    two = disk_needs(config.replace(binary_steps=2), student, folder)
    assert two.parts["checkpoints"] == pytest.approx(one.parts["checkpoints"] * 5 / 3)


def test_a_student_too_large_for_a_tflite_file():
    assert weights_size(500_000_000) == 2_000_000_000
    with pytest.raises(UserError, match=r"600 M parameters, 2\.4 GB .* at most 2 GB"):
        weights_size(600_000_000)

"""Runs with several teachers, layers and resolutions side by side."""

import json

import numpy as np
import pytest

from candle_tf.config import Config
from candle_tf.data.cached_arrays import Shard
from candle_tf.reporting.results import read_results
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.cache_features import cache_features
from candle_tf.stages.calibrate import calibrate
from candle_tf.stages.prepare import prepare
from candle_tf.stages.run import run
from candle_tf.teachers import features as features_module
from candle_tf.teachers.registry import TEACHERS
from tests.teachers.test_feature_parts import random_backbone

SETTINGS = {
    "profile": "counts", "class_counts": "30,24,20,16,14,12,10,8,8,8", "test_fraction": 0.1,
    "image_size": 16, "stem_stride": 1, "augmentation": "pad_crop", "teacher_view": "same",
    "views": 2, "teacher": "small+large", "teacher_layers": 2, "calibration_resolutions": (24, 32),
    "combine_resolutions": "concatenate", "calibration_epochs": 3, "epochs": 1, "batch_size": 32,
    "plugin": "tests.tiny_parts", "student": "tiny_student",
}  # fmt: skip


@pytest.fixture(autouse=True)
def teachers(monkeypatch):
    monkeypatch.setitem(TEACHERS._targets, "small", lambda *_: random_backbone(12, 1))
    monkeypatch.setitem(TEACHERS._targets, "large", lambda *_: random_backbone(8, 2, 10.0))


def test_a_run_distils_them_and_writes_them_as_one_file(tmp_path):
    config = Config(
        **SETTINGS, run_dir=str(tmp_path / "run"), feature_loss="source_kl", student_head="tied",
        balance="class_adversarial",
    )  # fmt: skip
    folder, results = run(config)
    record = json.loads((folder.export_path / "teacher_int8.json").read_text())
    assert "error" not in record
    assert record["resolution"] == 32
    assert record["agreement"] > 0.7
    assert (folder.export_path / "teacher.int8.tflite").stat().st_size == record["bytes"]
    again = read_results(folder.report_path)
    assert {"teacher", "teacher_int8", "student"} <= set(again.metrics) == set(results.metrics)
    assert again.config["teacher"] == "small+large"


def test_a_run_computes_eight_rows_of_each_cached_array(tmp_path, monkeypatch):
    config = Config(**SETTINGS, run_dir=str(tmp_path / "run"), cache_dir=str(tmp_path / "cache"))
    seen, rows = [], []
    features_of = features_module.features_of

    def counting(teacher, subset, augmentation, views, resolution):
        seen.append(tuple(part.scale for part in teacher.parts))
        rows.append(len(views))
        return features_of(teacher, subset, augmentation, views, resolution)

    monkeypatch.setattr(features_module, "features_of", counting)
    cache_features(config, Shard(1, 1))
    # The scales are measured first, and all else is computed with them.
    assert seen[0] == (1.0, 1.0, 1.0, 1.0)
    assert len(set(seen[1:])) == 1
    assert seen[1][0] == 1.0
    assert seen[1][2] < 0.5
    rows.clear()
    folder = open_run_folder(config)
    data = prepare(config, folder)
    calibrated = calibrate(config, data, folder.path / "calibrate")
    # To compare them, as this package does not know whether the teachers' code was changed: of
    # training, validation and test images at two resolutions.
    assert rows == [8] * 6
    assert [part.size for part in calibrated.parts] == [12, 4, 8, 4] * 2
    # What the student learns is as large in both teachers.
    features = calibrated.targets.features.astype(np.float32)
    deviations = [np.sqrt(each.var(0).mean()) for each in np.split(features, [12, 16, 24, 28], 1)]
    assert deviations[2] == pytest.approx(deviations[0], rel=0.5)

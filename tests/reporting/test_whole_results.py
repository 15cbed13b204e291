"""report.json that lacks what tables and figures are made of is refused; old ones are read."""

import json
import re
from dataclasses import replace

import pytest

from candle_tf.config import settings_of_older_runs
from candle_tf.errors import UserError
from candle_tf.reporting.analysis import analyze, read_run, sections_text
from candle_tf.reporting.comparison import TOLD_SETTINGS, compare
from candle_tf.reporting.results import write_results
from candle_tf.reporting.whole_results import read_whole_results
from tests.reporting.made_run import draw_run

SETTINGS = {"student": "reactnet_a", "width": 0.5, "run_dir": "runs/a", "optimizer": "adam"}


@pytest.fixture
def report(tmp_path):
    results = draw_run(3)[0]
    config = {**results.config, **SETTINGS}
    norms = {"student": [1.0, 2.0, 0.5]}
    write_results(replace(results, config=config, norms=norms), tmp_path / "report.json")
    return tmp_path / "report.json"


def read_both(path):
    """As `candle_tf.report` and `candle_tf.analyze` do."""
    results = read_whole_results(path, TOLD_SETTINGS)
    compare([results, results], None, None)
    return sections_text(analyze([read_run(path.parent, settings_of_older_runs())]))


@pytest.mark.parametrize(
    ("place", "value", "told"),
    [
        ("config.method", None, "config has no method"),
        ("config.run_dir", None, "config has no run_dir"),
        ("config.width", "wide", "width in config is not"),
        ("config.calibration_resolutions", [96, "x"], "calibration_resolutions in config is not"),
        ("config.calibration_resolutions", [], "calibration_resolutions in config is not"),
        ("split.hash", None, "split has no hash"),
        ("split.groups", None, "groups in split are not lists of its classes"),
        ("split.groups.many", ["no class"], "groups in split are not lists of its classes"),
        ("split.groups.many", [["b"]], "groups in split are not lists of its classes"),
        ("split.train_counts", {"猫": 3}, "are not of 1 classes|are not lists of its classes"),
        ("split.train_counts.猫", "many", "train_counts in split are not"),
        ("metrics.student", None, "metrics has no student"),
        ("bytes.tflite", None, "bytes has no tflite"),
        ("bytes.tflite", 10**400, "size in bytes is out of range"),
        ("norms.student", [1.0, 2.0], "norms are not those of 3 classes"),
        ("norms", [1.0], "norms are not those of 3 classes"),
        ("export.cost", [], "cost in export is not"),
    ],
)
def test_a_report_that_lacks_something_is_refused_with_its_path(report, place, value, told):
    content = json.loads(report.read_text())
    *parents, name = place.split(".")
    inner = content
    for parent in parents:
        inner = inner[parent]
    inner[name] = value
    if value is None:
        del inner[name]
    report.write_text(json.dumps(content))
    with pytest.raises(UserError, match=f"{re.escape(str(report))} is damaged .*({told})"):
        read_both(report)


def test_a_report_of_an_older_version_is_read(report):
    """Without norms, cost and settings that there were not."""
    assert "These reports have no norms" not in read_both(report)
    content = json.loads(report.read_text())
    for name in ("norms", "selection", "label_weight"):
        del content[name]
    del content["config"]["optimizer"], content["config"]["calibration_resolutions"]
    content["export"].pop("cost", None)
    report.write_text(json.dumps(content))
    assert "These reports have no norms" in read_both(report)

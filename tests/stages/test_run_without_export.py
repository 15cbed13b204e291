"""--export_student=off: a run's figures without files, which a later command writes."""

import re
from pathlib import Path

import pytest

import candle_tf
from candle_tf.config import Config
from candle_tf.deploy.exported_student import load_exported
from candle_tf.errors import UserError
from candle_tf.reporting.shipping import NO_FILES, shipping_sentence
from candle_tf.stages.run import run
from tests.stages.tiny_run import TINY_RUN

SETTINGS = {
    **TINY_RUN,
    "student": "tiny_student",
    "method": "cross_entropy",
    "imbalance_factor": 5.0,
    "epochs": 1,
}


def times_of(run_dir: Path) -> dict[Path, int]:
    times = {path: path.stat().st_mtime_ns for path in (run_dir / "student").rglob("epoch-*")}
    assert times
    return times


def test_files_are_written_when_they_are_asked_for_without_training_again(tmp_path, caplog):
    import tests.tiny_parts  # noqa: F401

    config = Config(**SETTINGS, run_dir=str(tmp_path), export_student="off", sampler_start=0.8)
    _, without = run(config)
    assert "--sampler_start=0.8 has no effect: it is for --sampler=deferred_*" in caplog.text
    assert not (tmp_path / "export").exists()
    assert without.export == {}
    assert set(without.metrics) == {"student", "student_last_epoch"}
    assert shipping_sentence(without).endswith(NO_FILES)
    page = (tmp_path / "report.html").read_text()
    assert page.count("No files were written") == 1
    assert "export/model_card.md" not in page
    with pytest.raises(UserError, match=re.escape("--export_student=off. Start the same command")):
        load_exported(tmp_path)

    trained = times_of(tmp_path)
    _, with_files = run(config.replace(export_student="auto"))
    assert times_of(tmp_path) == trained
    assert with_files.metrics["student"] == without.metrics["student"]
    assert "tflite" in with_files.metrics
    assert NO_FILES not in shipping_sentence(with_files)

    # What was written is neither lost nor left out of the report.
    _, again = run(config)
    assert again.metrics == with_files.metrics
    assert load_exported(tmp_path).labels == tuple("0123456789")


def test_the_call_that_returns_an_exported_student_needs_one():
    with pytest.raises(UserError, match="leaves nothing that train"):
        candle_tf.train(dataset="digits", export_student="off")

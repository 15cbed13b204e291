"""Commands refuse outputs that cannot be written before the work whose results they are."""

import os
from pathlib import Path

import pytest

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.output_files import require_output_files
from candle_tf.run_folder import open_run_folder
from tests.command import start


@pytest.mark.parametrize(
    ("module", "arguments", "flags"),
    [
        ("candle_tf.analyze", ["/nowhere"], ["html"]),
        ("candle_tf.evaluate", ["/nowhere"], ["csv", "json"]),
        ("candle_tf.predict", ["/nowhere", "x.png"], ["csv", "jsonl", "html"]),
        ("candle_tf.report", ["/nowhere"], ["html", "json"]),
        ("tools.bench", [], ["json"]),
        ("tools.bench_index", [], ["json"]),
        ("tools.bench_input", ["--data_dir=/nowhere"], ["json"]),
        ("tools.student_table", [], ["json"]),
    ],
)
def test_outputs_are_refused_before_the_work(module, arguments, flags, tmp_path):
    for flag in flags:
        # A folder is where the file would be.
        done = start(module, *arguments, f"--{flag}={tmp_path}")
        assert (done.returncode, done.stdout) == (2, "")
        assert f"{tmp_path} cannot be written" in done.stderr


def test_outputs_that_would_replace_each_other_are_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "file")
    (tmp_path / "folder").symlink_to(tmp_path)
    for other in ("file", "link", "folder/file", "./file", "x/../file"):
        with pytest.raises(UserError, match=f"--csv and --json are both .*{other}"):
            require_output_files({"csv": tmp_path / "file", "json": f"{tmp_path}/{other}"})
    places = {"csv": "/dev/null", "json": "", "html": None, "plot": "/dev/null", "out": "new"}
    assert require_output_files(places) == [Path("/dev/null"), Path("/dev/null"), Path("new")]
    with pytest.raises(UserError, match="cannot be written"):
        require_output_files({"csv": "new", "json": tmp_path})
    assert sorted(os.listdir(tmp_path)) == ["folder", "link"]


def test_a_file_of_a_run_is_not_replaced_and_one_beside_it_is(tmp_path):
    run = open_run_folder(Config(run_dir=str(tmp_path / "run")))
    (run.path / "student").mkdir()
    for name in ("split.json", "report.html", "student/history.csv", "photos.csv"):
        (run.path / name).write_text("whole")
    run.record("report", [run.path / "report.html"])
    (tmp_path / "link").symlink_to(run.path / "report.html")
    own = ("run/config.json", "run/split.json", "run/manifest.json", "run/report.html",
           "run/student/history.csv", "link", "run/student/../split.json")  # fmt: skip
    for name in own:
        with pytest.raises(UserError, match=f"{name} is a file of the run in {run.path}"):
            require_output_files({"csv": tmp_path / name})
    others = [run.path / name for name in ("photos.csv", "new.html", "student/new.csv")]
    assert require_output_files(dict(zip("abc", others, strict=True))) == others
    # Without settings the folder is no run's.
    run.config_path.unlink()
    assert require_output_files({"out": run.split_path}) == [run.split_path]


@pytest.mark.parametrize("manifest", ["", '{"name": "app", "stages": []}'])
def test_a_folder_with_the_settings_of_another_program_is_no_run(tmp_path, manifest):
    (tmp_path / "config.json").write_text('{"port": 80}')
    if manifest:
        (tmp_path / "manifest.json").write_text(manifest)
    (tmp_path / "export").mkdir()
    places = [tmp_path / "export" / "photos.csv", tmp_path / "photos.csv"]
    for place in places:
        place.write_text("of an earlier command")
    assert require_output_files({"csv": places[0], "jsonl": places[1]}) == places

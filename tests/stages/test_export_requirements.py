"""What an export needs is refused before training, each with its reason."""

import sys

import pytest
import tensorflow as tf

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.run_folder import RunFolder
from candle_tf.stages.export_requirements import check_export_requirements
from tests.command import start

NAMES = ("cat", "dog")


@pytest.fixture
def folder(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def check(folder: RunFolder, names: tuple[str, ...] = NAMES) -> None:
    config = Config(
        dataset="digits", image_size=16, stem_stride=1, width=0.25, run_dir=str(folder.path)
    )
    check_export_requirements(config, names, folder)


def test_a_run_that_can_be_exported_passes_and_is_left_as_it_was(folder):
    folder.path.mkdir()
    tf.keras.utils.set_random_seed(Config().run.seed)
    expected = tf.random.uniform([3]).numpy()
    check(folder)
    assert not list(folder.path.iterdir())
    # The student that was built on trial has used random numbers.
    assert tf.random.uniform([3]).numpy().tolist() == expected.tolist()


@pytest.mark.parametrize("name", ["two\nlines", "page\fbreak", "", "nul\0", "bytes \udcff"])
def test_class_names_that_no_label_file_can_hold(folder, name):
    with pytest.raises(UserError, match="not one line of text"):
        check(folder, (*NAMES, name))


@pytest.mark.parametrize(
    ("module", "message"),
    [
        ("larq_compute_engine", "Larq Compute Engine cannot be imported"),
        ("ai_edge_litert", "LiteRT cannot be imported"),
    ],
)
def test_a_converter_or_interpreter_that_is_missing(folder, monkeypatch, module, message):
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=message):
        check(folder)


@pytest.mark.parametrize("place", ["export", "export/saved_model"])
def test_a_folder_that_cannot_be_written(folder, place):
    path = folder.path / place
    path.parent.mkdir(parents=True)
    path.write_text("a file in its place")
    with pytest.raises(UserError, match=f"{place} cannot be written, which the export needs"):
        check(folder)


def test_a_command_is_refused_before_it_calibrates_or_trains(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "export").write_text("a file in its place")
    done = start(
        "candle_tf.train", "--dataset=digits", "--image_size=16", "--stem_stride=1",
        "--width=0.25", f"--run_dir={tmp_path / 'run'}",
    )  # fmt: skip
    assert done.returncode == 2
    assert "which the export needs" in done.stderr
    assert not {"calibrate", "student"} & {path.name for path in (tmp_path / "run").iterdir()}

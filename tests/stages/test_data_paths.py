"""Missing images and lists are told before anything is imported or scanned."""

import pytest

from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.stages.data_paths import require_data_paths
from tests.command import start_from_nothing


@pytest.mark.parametrize(
    ("settings", "flag"),
    [
        ({"dataset": "folder", "data_dir": "nothing"}, "data_dir"),
        ({"dataset": "list", "data_dir": ".", "train_list": "nothing"}, "train_list"),
        (
            {"dataset": "list", "data_dir": ".", "train_list": "a.csv", "test_list": "nothing"},
            "test_list",
        ),
        ({"dataset": "folder", "data_dir": ".", "unlabelled_dir": "nothing"}, "unlabelled_dir"),
    ],
)
def test_the_flag_and_the_folder_are_told(tmp_path, monkeypatch, settings, flag):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("")
    with pytest.raises(UserError, match=f"^--{flag}=nothing does not exist in {tmp_path}"):
        require_data_paths(Config(**settings))
    (tmp_path / "nothing").mkdir()
    require_data_paths(Config(**settings))


def test_the_folder_of_tensorflow_datasets_may_be_made_by_them(tmp_path):
    require_data_paths(Config(dataset="tfds:caltech101", data_dir=str(tmp_path / "nothing")))
    require_data_paths(Config(dataset="digits"))


def test_it_is_told_before_tensorflow_is_imported(tmp_path):
    done = start_from_nothing(
        "candle_tf.train", "--dataset=folder", f"--data_dir={tmp_path / 'nothing'}",
        f"--run_dir={tmp_path / 'run'}", "--method=cross_entropy",
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "does not exist" in done.stderr
    assert not (tmp_path / "run").exists()

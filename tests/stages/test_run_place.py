"""Where a run may write: not among the class folders that it reads."""

import os
from pathlib import Path

import pytest

from candle_tf.config import Config
from candle_tf.data.cached_arrays import Shard
from candle_tf.errors import UserError
from candle_tf.stages.cache_features import cache_features
from candle_tf.stages.run import run
from candle_tf.stages.run_place import refuse_run_among_images
from tests import command
from tests.data.sources.test_registry import tree, write_folder

CLASSES = tuple(f"{label}/{i}.png" for label in ("ant", "bee") for i in range(5))
SUBSETS = tuple(f"{subset}/{name}" for subset in ("train", "test") for name in CLASSES)


def config(folder: Path, **changes) -> Config:
    return Config(
        **{"dataset": "folder", "data_dir": str(folder), "image_size": 8, "method": "cross_entropy"}
        | changes
    )


@pytest.mark.parametrize("names", [CLASSES, SUBSETS])
@pytest.mark.parametrize("inside", ["run_dir", "cache_dir"])
def test_nothing_is_written_among_the_images(tmp_path, names, inside):
    write_folder(tmp_path / "data", tree(*names))
    before = sorted(tmp_path.rglob("*"))
    places = {"run_dir": tmp_path / "run", inside: tmp_path / "data" / "runs" / "first"}
    settings = config(tmp_path / "data", **{name: str(path) for name, path in places.items()})
    for start in (run, lambda settings: cache_features(settings, Shard(1, 1))):
        with pytest.raises(UserError) as caught:
            start(settings)
        message = str(caught.value)
        assert message.startswith(f"--{inside}={places[inside]} (")
        assert f"is inside --data_dir={tmp_path / 'data'} (" in message
        assert f"Give a --{inside} outside of it" in message
        assert sorted(tmp_path.rglob("*")) == before


def test_the_current_folder_is_told_by_its_path(tmp_path):
    write_folder(tmp_path, tree(*CLASSES))
    for _ in range(2):
        done = command.start(
            "candle_tf.train", "--dataset=folder", "--data_dir=.", "--run_dir=runs/first",
            cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 2
        assert (
            f"--run_dir=runs/first ({tmp_path / 'runs/first'}) is inside --data_dir=. ({tmp_path})"
            in done.stderr
        )
    assert sorted(os.listdir(tmp_path)) == ["ant", "bee"]


def test_links_are_followed(tmp_path):
    write_folder(tmp_path / "data", tree(*CLASSES))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "data" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "same").symlink_to(tmp_path / "data")
    for place in (tmp_path / "data/link/run", tmp_path / "same/run", tmp_path / "same"):
        with pytest.raises(UserError, match="is inside --data_dir"):
            refuse_run_among_images(config(tmp_path / "data", run_dir=str(place)))
    with pytest.raises(UserError, match="is inside --data_dir"):
        refuse_run_among_images(config(tmp_path / "same", run_dir=str(tmp_path / "data/run")))


def test_what_is_not_listed_may_be_written(tmp_path):
    write_folder(tmp_path / "data", tree(*CLASSES))
    (tmp_path / "images.zip").write_bytes(b"")
    inside = str(tmp_path / "data" / "run")
    refuse_run_among_images(config(tmp_path / "data", run_dir=str(tmp_path / "data runs")))
    # Hidden folders are not read as classes.
    outside, hidden = str(tmp_path / "run"), str(tmp_path / "data" / ".cache")
    refuse_run_among_images(config(tmp_path / "data", run_dir=outside, cache_dir=hidden))
    refuse_run_among_images(config(tmp_path / "images.zip", run_dir=outside))
    refuse_run_among_images(
        config(tmp_path / "data", dataset="list", train_list="train.txt", run_dir=inside)
    )
    for dataset in ("tfds:cifar10", "fashion_mnist"):
        refuse_run_among_images(config(tmp_path / "data", dataset=dataset, run_dir=inside))

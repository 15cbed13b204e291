"""Images that a run learned from, found again under other names."""

import dataclasses
import json
import os
import threading
from pathlib import Path

import pytest

from candle_tf.config import Config
from candle_tf.data.sources.registry import open_source
from candle_tf.data.splits.split import load_split
from candle_tf.errors import UserError
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.check_images import check_split
from candle_tf.stages.seen_images import find_seen_images, warn_of_seen_images
from candle_tf.stages.split import open_data
from tests.data.sources.test_registry import tree, write_folder

NAMES = [f"{label}/{i}.png" for label in ("ant", "bee") for i in range(10)]


@pytest.fixture
def run(tmp_path):
    """The folder of a run whose images were checked, with some held out for validation and test."""
    data = write_folder(tmp_path / "data", tree(*NAMES))
    config = Config(dataset="folder", data_dir=data, run_dir=str(tmp_path / "run"))
    with open_data(config) as source:
        split, _ = check_split(config, open_run_folder(config), source)
    assert all(subset.ids for subset in split.subsets.values())
    return tmp_path / "run"


def list_learned_names(run: Path) -> set[str]:
    split = load_split(run / "split.json")
    return set(NAMES).difference(split.test.ids)


def find_seen_in(run: Path, data: Path) -> set[str]:
    with open_source("folder", str(data)) as source:
        return set(find_seen_images(run, source, source.train.ids))


def test_of_the_same_folder_all_but_the_test_images_are_found(run, tmp_path):
    assert find_seen_in(run, tmp_path / "data") == list_learned_names(run)
    with open_source("folder", str(tmp_path / "data")) as source:
        split = load_split(run / "split.json")
        assert find_seen_images(run, source, split.test.ids) == []


def test_of_copies_under_other_names_the_same_are_found(run, tmp_path):
    names = {name: name.replace("/", "/copy-") for name in NAMES}
    files = {names[name]: content for name, content in tree(*NAMES).items()}
    more = tree(*["x"] * len(NAMES), "ant/new.png")  # other bytes than any of them
    copies = write_folder(tmp_path / "copies", files | {"ant/new.png": more["ant/new.png"] + b"0"})
    assert find_seen_in(run, Path(copies)) == {names[name] for name in list_learned_names(run)}


def test_other_images_of_the_same_names_are_not_those(run, tmp_path):
    others = {name: content + b"0" for name, content in tree(*NAMES).items()}
    data = write_folder(tmp_path / "others", others)
    assert find_seen_in(run, Path(data)) == set()
    # Runs of older versions recorded no bytes.
    (run / "image_contents.json").unlink()
    assert find_seen_in(run, Path(data)) == list_learned_names(run)
    write_folder(tmp_path / "others", tree("ant/more.png"))
    assert find_seen_in(run, Path(data)) == set()


def test_an_image_that_cannot_be_read_is_none_of_them(run, tmp_path):
    data = Path(write_folder(tmp_path / "copies", tree(*NAMES)))
    with open_source("folder", str(data)) as source:
        os.unlink(data / NAMES[0])
        assert set(find_seen_images(run, source, source.train.ids)) == list_learned_names(run) - {
            NAMES[0]
        }


def test_several_images_are_read_at_once(run, tmp_path):
    data = write_folder(tmp_path / "copies", tree(*NAMES))
    meeting = threading.Barrier(2)
    with open_source("folder", data) as source:

        def read(image_id: str) -> bytes:
            meeting.wait(timeout=30)  # for another image that is read
            return source.read_bytes(image_id)

        slow = dataclasses.replace(source, encoded=read)
        assert set(find_seen_images(run, slow, source.train.ids)) == list_learned_names(run)


def test_a_record_that_is_damaged_is_told_and_stops_no_measurement(run, tmp_path, caplog):
    path = run / "image_contents.json"
    data = write_folder(tmp_path / "copies", tree(*NAMES))
    for wrong in ("AAAA", "?"):
        path.write_text(json.dumps({**json.loads(path.read_text()), "hashes": wrong}))
        with pytest.raises(UserError, match=r"image_contents\.json is damaged"):
            find_seen_in(run, Path(data))
    with open_source("folder", data) as source:
        warn_of_seen_images(run, source, source.train.ids)
    assert "learned from these images cannot be told" in caplog.text


def test_of_a_folder_without_a_split_nothing_is_known(run, tmp_path):
    (run / "split.json").unlink()
    assert find_seen_in(run, tmp_path / "data") == set()

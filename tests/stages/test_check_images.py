"""Images that cannot be read, and images in two subsets, before anything is learned."""

import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from candle_tf.config import Config
from candle_tf.data.sources.registry import open_source
from candle_tf.data.splits.split import leave_out, load_split, save_split
from candle_tf.errors import UserError
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.check_images import check_split
from candle_tf.stages.prepare import prepare
from candle_tf.stages.split import draw_split, open_data
from tests.data.sources.test_registry import tree, write_folder

TRAIN = tuple(f"train/{label}/{i:02d}.png" for label in ("ant", "bee") for i in range(12))
TEST = tuple(f"test/{label}/{i}.png" for label in ("ant", "bee") for i in range(3))
BAD = {"train/ant/03.png": b"<html>", "train/bee/07.png": b"", "test/ant/1.png": b"\x89PNG\r\n"}


@pytest.fixture
def config(tmp_path):
    # Different in every image.
    write_folder(tmp_path / "data", tree(*TRAIN, *TEST) | BAD)
    return Config(
        dataset="folder", data_dir=str(tmp_path / "data"), profile="natural",
        run_dir=str(tmp_path / "run"), cache_dir=str(tmp_path / "cache"), image_size=8,
        calibration_resolutions=(32,),
    )  # fmt: skip


def check(config):
    with open_data(config) as source:
        return check_split(config, open_run_folder(config), source)


def all_ids(split):
    return {*split.train.ids, *split.validation.ids, *split.test.ids}


def test_stop_lists_all_of_them_at_once_and_saves_no_split(config):
    with pytest.raises(UserError) as caught:
        check(config)
    message = str(caught.value)
    assert message.startswith("3 images cannot be read:")
    for name in BAD:
        assert f"{name}: not a readable image" in message
    assert "--on_bad_image=skip" in message
    assert not (Path(config.run.run_dir) / "split.json").exists()
    assert not (Path(config.run.run_dir) / "data_check.json").exists()
    # What the message advises works in the same folder.
    split, _ = check(config.replace(on_bad_image="skip"))
    assert not all_ids(split) & set(BAD)


def test_skip_leaves_them_out_of_their_subsets_and_writes_them_down(config, caplog):
    config = config.replace(on_bad_image="skip")
    with open_data(config) as source:
        drawn = draw_split(config, source)
    split, record = check(config)
    for name in ("train", "validation", "test"):
        before, after = getattr(drawn, name), getattr(split, name)
        kept = [image_id not in BAD for image_id in before.ids]
        assert after.ids == tuple(i for i, keep in zip(before.ids, kept, strict=True) if keep)
        np.testing.assert_array_equal(after.labels, before.labels[kept])
    assert split.train_counts.tolist() == [11, 11]
    assert record["scanned"] == 30
    assert {(e["id"], e["class"]) for e in record["left_out"]} == {
        ("train/ant/03.png", "ant"), ("train/bee/07.png", "bee"), ("test/ant/1.png", "ant"),
    }  # fmt: skip
    assert [e["part"] for e in record["left_out"]][-1] == "test"
    assert all("not a readable image" in e["reason"] for e in record["left_out"])
    assert "3 of 30 images cannot be read and are left out" in caplog.text
    written = json.loads((Path(config.run.run_dir) / "data_check.json").read_text())
    assert written == record


def test_a_resumed_run_is_the_same_though_the_data_were_fixed(config):
    config = config.replace(on_bad_image="skip")
    first, record = check(config)
    (Path(config.data.data_dir) / "train/ant/03.png").write_bytes(tree("x.png")["x.png"])
    again, same = check(config)
    assert again.hash == first.hash
    assert same == record


@pytest.mark.parametrize("lost", ["split.json", "data_check.json"])
def test_a_run_that_died_between_both_files_resumes(config, lost):
    config = config.replace(on_bad_image="skip")
    first, record = check(config)
    (Path(config.run.run_dir) / lost).unlink()
    again, same = check(config)
    assert again.hash == first.hash
    if lost == "split.json":
        assert same == record
    else:
        assert same["left_out"] == []


def test_what_becomes_unreadable_under_a_saved_split_stops_the_run(config):
    config = config.replace(on_bad_image="skip")
    split, _ = check(config)
    (Path(config.run.run_dir) / "data_check.json").unlink()
    (Path(config.data.data_dir) / split.train.ids[0]).write_bytes(b"")
    with pytest.raises(UserError, match=r"1 images cannot(.|\n)*this run's split has them"):
        check(config)


def test_a_given_split_is_taken_without_the_bad_ones(config, tmp_path):
    with open_data(config) as source:
        save_split(draw_split(config, source), tmp_path / "given.json")
    config = config.replace(on_bad_image="skip", split=str(tmp_path / "given.json"))
    split, _ = check(config)
    given = load_split(tmp_path / "given.json")
    assert all_ids(split) == all_ids(given) - set(BAD)
    assert check(config)[0].hash == split.hash


def test_a_class_without_readable_images_is_an_error(config):
    for name in TRAIN[:12]:
        (Path(config.data.data_dir) / name).write_bytes(b"")
    with pytest.raises(UserError, match="the class 'ant' has no training images"):
        check(config.replace(on_bad_image="skip"))


def test_nothing_left_to_test_on_is_an_error(config):
    with open_data(config) as source:
        split = draw_split(config, source)
    with pytest.raises(UserError, match="no test image is left"):
        leave_out(split, split.test.ids)


def test_duplicates_are_reported_not_removed(config, caplog):
    for name in BAD:
        (Path(config.data.data_dir) / name).write_bytes(tree("x.png")["x.png"])
    # The fixed three are all one image, and the first of TRAIN is that one too.
    split, record = check(config)
    assert len(all_ids(split)) == 30
    assert len(record["duplicates"]) == 1
    (duplicate,) = record["duplicates"]
    assert list(duplicate["ids"]["test"]) == ["test/ant/1.png"]
    assert sorted(duplicate["classes"]) == ["ant", "bee"]
    assert record["shared"]["train and test"] == 1
    assert "1 images are in both train and test, with the same bytes" in caplog.text


def test_one_image_in_two_classes_of_a_subset_is_reported_and_stays(config, caplog):
    config = config.replace(on_bad_image="skip")
    folder = Path(config.data.data_dir)
    (folder / "test/ant/0.png").write_bytes((folder / "test/bee/2.png").read_bytes())
    split, record = check(config)
    assert len(all_ids(split)) == 27
    assert record["duplicates"] == []
    both = {"ant": ["test/ant/0.png"], "bee": ["test/bee/2.png"]}
    assert record["contradictory"] == [{"subset": "test", "ids": both}]
    message = (
        "1 images have several classes within test, with the same bytes, e.g. test/ant/0.png (ant) "
        "= test/bee/2.png (bee)"
    )
    assert message in caplog.text
    caplog.clear()
    assert check(config)[1] == record
    assert message in caplog.text


def begin(config) -> None:
    """Makes a run folder one in which an epoch was trained, as far as can be seen from outside."""
    checkpoints = Path(config.run.run_dir) / "student" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "progress.json").write_text("{}")


@pytest.fixture
def begun(config):
    config = config.replace(on_bad_image="skip")
    check(config)
    begin(config)
    return config


@pytest.mark.parametrize("cached", [True, False])
def test_images_with_other_contents_are_named_when_a_run_is_resumed(begun, cached):
    split, record = check(begun)
    folder = Path(begun.data.data_dir)
    before = (folder / split.test.ids[0]).read_bytes()
    (folder / split.test.ids[0]).write_bytes((folder / split.test.ids[1]).read_bytes())
    (folder / split.train.ids[0]).write_bytes(b"no image")
    if not cached:
        shutil.rmtree(begun.run.cache_dir)
    for _ in range(2):
        with pytest.raises(UserError) as caught:
            check(begun)
        message = str(caught.value)
        assert message.startswith("2 images have other contents than when the run in ")
        assert f": '{split.test.ids[0]}', '{split.train.ids[0]}'. Restore them" in message
    (folder / split.test.ids[0]).write_bytes(before)
    with pytest.raises(UserError, match="1 images have other contents"):
        check(begun)
    (folder / split.train.ids[0]).write_bytes(tree(*TRAIN)[split.train.ids[0]])
    again, same = check(begun)
    assert again.hash == split.hash
    assert same == record


def test_copied_images_are_no_other_ones(begun, caplog, tmp_path):
    caplog.set_level("INFO", logger="absl")
    first, record = check(begun)
    assert "their bytes are compared" not in caplog.text
    for path in Path(begun.data.data_dir).rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    again, same = check(begun)
    assert "their bytes are compared" in caplog.text
    assert (again.hash, same) == (first.hash, record)
    names = sorted({*TRAIN, *TEST})
    with zipfile.ZipFile(tmp_path / "data.zip", "w") as packed:
        for name in names:
            packed.write(Path(begun.data.data_dir) / name, name)
    assert check(begun.replace(data_dir=str(tmp_path / "data.zip")))[1] == record


def test_images_that_changed_before_anything_was_trained_are_checked_again(config):
    config = config.replace(on_bad_image="skip")
    first, _ = check(config)
    (Path(config.data.data_dir) / first.test.ids[0]).write_bytes(b"no image")
    (Path(config.data.data_dir) / "train/ant/03.png").write_bytes(tree(*TRAIN)["train/ant/03.png"])
    split, record = check(config)
    assert {entry["id"] for entry in record["left_out"]} == {
        "train/bee/07.png", "test/ant/1.png", first.test.ids[0],
    }  # fmt: skip
    assert "train/ant/03.png" in all_ids(split)
    assert check(config)[0].hash == split.hash


def test_a_run_without_a_record_of_contents_is_resumed(begun):
    path = Path(begun.run.run_dir) / "image_contents.json"
    path.unlink()
    first, _ = check(begun)
    (Path(begun.data.data_dir) / first.test.ids[0]).write_bytes(b"other")
    assert check(begun)[0].hash == first.hash
    assert not path.exists()


def test_a_damaged_record_of_contents_is_named(begun):
    path = Path(begun.run.run_dir) / "image_contents.json"
    record = json.loads(path.read_text())
    short = {**record, "hashes": record["hashes"][:8]}
    no_text = {**record, "hashes": 7}
    no_tokens = {name: value for name, value in record.items() if name != "tokens"}
    for damage in ("{", "[]", *map(json.dumps, (short, no_text, no_tokens))):
        path.write_text(damage)
        with pytest.raises(UserError, match=r"image_contents\.json is damaged"):
            check(begun)


def test_a_record_of_an_older_version_has_no_such_images(config):
    config = config.replace(on_bad_image="skip")
    _, record = check(config)
    path = Path(config.run.run_dir) / "data_check.json"
    older = {name: value for name, value in record.items() if name != "contradictory"}
    path.write_text(json.dumps(older))
    assert check(config)[1] == older


def test_preparing_a_run_decodes_what_is_left(config):
    config = config.replace(on_bad_image="skip")
    data = prepare(config, open_run_folder(config))
    assert data.counts.tolist() == [11, 11]
    assert len(data.test) == 5
    assert len(data.check["left_out"]) == 3


def test_copies_are_searched_when_it_is_asked_for_later(config, monkeypatch):
    pytest.importorskip("imagehash", reason="ImageHash of requirements-dev.txt is not here")
    config = config.replace(on_bad_image="skip")
    folder = Path(config.data.data_dir)
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8)).resize((64, 64))
    image.save(folder / "train/ant/00.png")
    image.resize((48, 48)).save(folder / "test/ant/0.png")
    _, record = check(config)
    assert "near_duplicates" not in record
    begin(config)
    for distance in (16, 0):
        asked = config.replace(near_duplicates=distance)
        _, record = check(asked)
        assert record["near_duplicates_distance"] == distance
        assert all(pair["bits"] <= distance for pair in record["near_duplicates"])
        pairs = {(pair["train"], pair["test"]) for pair in record["near_duplicates"]}
        assert ("train/ant/00.png", "test/ant/0.png") in pairs
        # What is found stays, also where it is not asked for again, or the package is gone.
        assert check(config)[1] == record
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, "imagehash", None)
            assert check(asked)[1] == record
    # Older versions recorded every pair, without a number.
    pairs = [{k: v for k, v in pair.items() if k != "alike"} for pair in record["near_duplicates"]]
    older = {**record, "near_duplicates": 2 * pairs}
    (Path(config.run.run_dir) / "data_check.json").write_text(json.dumps(older))
    assert check(config)[1] == older


def test_the_package_of_the_search_is_asked_for_before_images_are_read(config, monkeypatch):
    monkeypatch.setitem(sys.modules, "imagehash", None)
    with pytest.raises(UserError, match="needs the package ImageHash"):
        check(config.replace(near_duplicates=4))
    assert not Path(config.run.cache_dir).exists()


def test_what_a_split_cannot_be_used_with_is_told_before_images_are_decoded(config):
    def refuse(split):
        raise UserError(f"{len(split.class_names)} classes")

    config = config.replace(on_bad_image="skip")
    with pytest.raises(UserError, match="2 classes"):
        prepare(config, open_run_folder(config), check=refuse)
    assert not list(Path(config.run.cache_dir).glob("images*"))
    prepare(config, open_run_folder(config))
    assert list(Path(config.run.cache_dir).glob("images*"))


def test_a_damaged_record_is_named(config):
    path = Path(config.run.run_dir) / "data_check.json"
    config = config.replace(on_bad_image="skip")
    check(config)
    record = json.loads(path.read_text())
    wrong = ([{}], [{"subset": "test", "ids": []}], [{"subset": 1, "ids": {}}], [7])
    damages = [json.dumps({**record, "contradictory": entries}) for entries in wrong]
    for damage in (*damages, "{", "[]", '{"left_out": [{}]}', '{"left_out": []}'):
        path.write_text(damage)
        with pytest.raises(UserError, match=r"data_check\.json is damaged"):
            check(config)


def test_digits_share_no_images(tmp_path):
    config = Config(run_dir=str(tmp_path / "run"))
    with open_source("digits") as source:
        _, record = check_split(config, open_run_folder(config), source)
    assert record["left_out"] == []
    assert record["shared"] == {}

import dataclasses
import shutil
from pathlib import Path

import pytest

from candle_tf.config import Config
from candle_tf.data.splits.split import load_split, save_split
from candle_tf.errors import UserError
from candle_tf.run_folder import RunFolder, open_run_folder
from candle_tf.stages.check_images import check_split
from candle_tf.stages.prepare import prepare
from candle_tf.stages.split import draw_split, open_data, run_split
from tests.data.sources.test_registry import tree, write_folder


def settings(tmp_path, **changes) -> Config:
    return Config(imbalance_factor=10, run_dir=str(tmp_path / "run"), **changes)


def begin(config: Config) -> None:
    """Makes a run folder one in which an epoch was trained, as far as can be seen from outside."""
    checkpoints = Path(config.run.run_dir) / "student" / "checkpoints"
    checkpoints.mkdir(parents=True)
    (checkpoints / "progress.json").write_text("{}")


def split_of(config: Config):
    with open_data(config) as source:
        return run_split(config, open_run_folder(config), source)


def test_a_run_takes_a_saved_split_whatever_its_own_flags_would_draw(tmp_path):
    with open_data(Config()) as source:
        saved = draw_split(settings(tmp_path, seed=5, selection="first"), source)
    save_split(saved, tmp_path / "split.json")
    config = settings(tmp_path).replace(split=str(tmp_path / "split.json"))
    split = split_of(config)
    assert split.hash == saved.hash
    assert load_split(tmp_path / "run" / "split.json").hash == saved.hash
    # Resumed, also if the file has been moved.
    (tmp_path / "split.json").rename(tmp_path / "moved.json")
    for place in (str(tmp_path / "moved.json"), ""):
        assert split_of(config.replace(split=place)).hash == saved.hash


def test_another_split_in_the_run_folder_is_refused(tmp_path):
    config = settings(tmp_path)
    first = split_of(config)
    save_split(dataclasses.replace(first, seed=9), tmp_path / "split.json")
    with pytest.raises(UserError, match="another split than --split"):
        split_of(config.replace(split=str(tmp_path / "split.json")))


def test_no_new_split_is_drawn_for_what_was_trained(tmp_path):
    """With images added it would test on images that were trained on."""
    names = [f"{label}/{i}.png" for label in ("ant", "bee") for i in range(12)]
    write_folder(tmp_path / "data", tree(*names))
    config = settings(tmp_path, dataset="folder", data_dir=str(tmp_path / "data"))
    run = tmp_path / "run"

    def check():
        with open_data(config) as source:
            return check_split(config, open_run_folder(config), source)[0]

    first = check()
    begin(config)
    RunFolder(run).record("data", [], split=first.hash)
    saved = (run / "split.json").read_bytes()
    (run / "split.json").unlink()
    write_folder(tmp_path / "data", tree("ant/12.png", "bee/12.png"))
    before = {path: path.read_bytes() for path in run.rglob("*.json")}
    for missing in (check, lambda: split_of(config)):
        with pytest.raises(UserError, match=r"split\.json is missing.*Restore it, or give another"):
            missing()
    assert {path: path.read_bytes() for path in run.rglob("*.json")} == before
    # Nor is another one taken, of the images that are there now.
    save_split(split_of(config.replace(run_dir=str(tmp_path / "new"))), run / "split.json")
    with pytest.raises(UserError, match=f"another split .*began with .{first.hash[:12]}"):
        check()
    for name in ("ant/12.png", "bee/12.png"):
        (tmp_path / "data" / name).unlink()
    (run / "split.json").write_bytes(saved)
    assert check().hash == first.hash


def test_a_split_of_other_data_is_refused(tmp_path):
    first = split_of(settings(tmp_path))
    save_split(dataclasses.replace(first, source_hash="0" * 64), tmp_path / "split.json")
    config = Config(run_dir=str(tmp_path / "other"), split=str(tmp_path / "split.json"))
    with pytest.raises(UserError, match="was drawn from other data"):
        split_of(config)
    assert not (tmp_path / "other" / "split.json").exists()


def test_a_given_split_that_does_not_match_is_named_as_the_cause(tmp_path):
    names = tuple(f"{label}/{i}.png" for label in ("ant", "bee") for i in range(6))
    write_folder(tmp_path / "data", tree(*names))
    config = settings(tmp_path, dataset="folder", data_dir=str(tmp_path / "data"))
    place = tmp_path / "sp.json"
    save_split(split_of(config), place)
    for name in names[:2]:
        (tmp_path / "data" / name).rename(tmp_path / "data" / f"{name[:-4]}-b.png")
    (tmp_path / "data" / names[-1]).unlink()
    with pytest.raises(UserError) as caught:
        split_of(config.replace(run_dir=str(tmp_path / "new"), split=str(place)))
    assert str(caught.value) == (
        f"--split={place} was drawn from other data (3 images of the split were removed or "
        "renamed; 2 images were added): give the data it was drawn from, or leave --split out."
    )
    with pytest.raises(UserError, match=r"--split=.*sp\.json was drawn from the data set 'folder'"):
        split_of(settings(tmp_path / "digits", split=str(place)))
    # The split of a run that is resumed is still told as the run's.
    with pytest.raises(UserError, match=r"this run's split was drawn from.*new run folder"):
        split_of(config)


def prepare_with(caplog, config: Config) -> list[str]:
    """Sentences of the data stage's log on classes without test images."""
    caplog.clear()
    with open_data(config) as source:
        assert (source.test is None) == (config.data.data_dir.endswith("held out"))
    prepare(config, open_run_folder(config))
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelname == "WARNING" and "no test images" in record.getMessage()
    ]


def test_classes_that_no_test_image_is_held_out_of_are_told_at_each_start(tmp_path, caplog):
    sizes = {"ant": 6, "bee": 3, "cat": 1, "dog": 4}
    names = [f"{label}/{i}.png" for label, size in sizes.items() for i in range(size)]
    write_folder(tmp_path / "held out", tree(*names))
    config = settings(
        tmp_path, dataset="folder", data_dir=str(tmp_path / "held out"), image_size=8,
        calibration_resolutions=(32,),
    )  # fmt: skip
    expected = [
        "2 classes have no test images and are not in the means: bee, cat (a class of fewer than 4 "
        "images gives none up)"
    ]
    assert prepare_with(caplog, config) == expected
    assert prepare_with(caplog, config) == expected


def test_classes_that_a_given_test_subset_lacks_are_told_without_that_reason(tmp_path, caplog):
    names = [f"train/{label}/{i}.png" for label in ("ant", "bee") for i in range(5)]
    write_folder(tmp_path / "given", tree(*names, "test/ant/9.png"))
    config = settings(
        tmp_path, dataset="folder", data_dir=str(tmp_path / "given"), image_size=8,
        calibration_resolutions=(32,),
    )  # fmt: skip
    assert prepare_with(caplog, config) == [
        "1 class has no test images and is not in the means: bee"
    ]
    write_folder(tmp_path / "given", tree("test/bee/9.png"))
    assert prepare_with(caplog, config.replace(run_dir=str(tmp_path / "both"))) == []


def test_counts_are_read_for_the_classes_of_the_source(tmp_path):
    (tmp_path / "counts.csv").write_text("".join(f"{c},{c + 1}\n" for c in reversed(range(10))))
    config = settings(tmp_path, profile="counts", class_counts=str(tmp_path / "counts.csv"))
    assert split_of(config).train_counts.tolist() == list(range(1, 11))


@pytest.mark.parametrize("begun", [False, True])
def test_counts_that_were_edited_are_drawn_again_or_refused(tmp_path, begun):
    path = tmp_path / "counts.csv"
    config = settings(tmp_path, profile="counts", class_counts=str(path))

    def draw(counts):
        path.write_text("".join(f"{c},{n}\n" for c, n in enumerate(counts)))
        with open_data(config) as source:
            return check_split(config, open_run_folder(config), source)[0].train_counts.tolist()

    first, second = list(range(1, 11)), list(range(10, 0, -1))
    assert draw(first) == first
    if begun:
        begin(config)
        with pytest.raises(UserError, match=f"--class_counts={path} has other counts"):
            draw(second)
        # A moved file with the same counts is no other one, and a lost one tells nothing.
        path = tmp_path / "moved.csv"
        config = config.replace(class_counts=str(path))
        assert draw(first) == first
        config = config.replace(class_counts=str(tmp_path / "lost.csv"))
        assert draw(second) == first
    else:
        assert draw(second) == second


def test_counts_are_those_of_the_draw_without_images_that_cannot_be_read(tmp_path):
    names = [f"{label}/{i}.png" for label in ("ant", "bee") for i in range(12)]
    write_folder(tmp_path / "data", tree(*names) | dict.fromkeys(names[:12:4], b""))
    config = settings(
        tmp_path, dataset="folder", data_dir=str(tmp_path / "data"), profile="counts",
        class_counts="9,5", on_bad_image="skip", test_fraction=0.1,
    )  # fmt: skip
    with open_data(config) as source:
        split, record = check_split(config, open_run_folder(config), source)
        assert split.train_counts.sum() < 14
        begin(config)
        assert check_split(config, open_run_folder(config), source)[0].hash == split.hash
        assert record["left_out"]
        with pytest.raises(UserError, match="--class_counts=9,4 has other counts"):
            check_split(
                config.replace(class_counts="9,4"),
                open_run_folder(config.replace(class_counts="9,4")),
                source,
            )


def test_copies_of_records_are_not_drawn_again(tmp_path):
    config = settings(tmp_path, profile="counts", class_counts=",".join(10 * ["5"]))
    with open_data(config) as source:
        check_split(config, open_run_folder(config), source)
        copy = RunFolder(tmp_path / "copy")
        copy.path.mkdir()
        for name in ("split.json", "data_check.json"):
            shutil.copyfile(tmp_path / "run" / name, copy.path / name)
        other = config.replace(class_counts=",".join(10 * ["4"]))
        with pytest.raises(UserError, match=f"the run in {tmp_path / 'run'} began with"):
            check_split(other, copy, source)


@pytest.mark.parametrize("read_before", [False, True])
def test_a_split_that_a_user_put_into_the_run_folder_stays(tmp_path, caplog, read_before):
    caplog.set_level("INFO", logger="absl")
    config = settings(tmp_path, cache_dir=str(tmp_path / "cache"))
    with open_data(config) as source:
        mine = draw_split(config.replace(seed=7, profile="step"), source)
        place = tmp_path / "run" / "split.json"
        place.parent.mkdir()
        save_split(mine, place)
        if read_before:
            check_split(config, open_run_folder(config), source)
            assert "step profile, imbalance factor 10, seeded selection, seed 7" in caplog.text
        other = config.replace(batch_size=7)
        assert check_split(other, open_run_folder(other), source)[0].hash == mine.hash
    assert load_split(place).hash == mine.hash


def test_what_a_profile_leaves_out_is_logged_in_numbers(tmp_path, caplog):
    caplog.set_level("INFO", logger="absl")
    split = split_of(settings(tmp_path))
    used, available = int(split.train_counts.sum()), 1797 - len(split.test.ids)
    assert (
        f"uses {used} of {available} training images and leaves {available - used}" in caplog.text
    )
    caplog.clear()
    split_of(settings(tmp_path / "all", profile="natural"))
    assert "training images and leaves" not in caplog.text

"""The paper's 15 data sets: the rows against published figures, and the main that prints them."""

import json
from pathlib import Path

import numpy as np
import pytest
from absl import flags

import candle_tf
from candle_tf import app
from candle_tf.config import Config
from candle_tf.data.catalog import CATALOG, kind_of, settings_of
from candle_tf.data.splits.longtail import profile_counts
from candle_tf.datasets import row_figures, state
from candle_tf.errors import UserError
from tests.command import start

ROOT = Path(candle_tf.__file__).parents[1]
# Training images of each class, where all have as many.
BALANCED = {10: 5000, 100: 500}


def test_there_are_the_15_of_the_paper():
    assert len(CATALOG) == 15
    assert [e.imbalance_factor for e in CATALOG.values() if e.source == "tfds:cifar10"] == [10, 100]
    assert [e.imbalance_factor for e in CATALOG.values() if e.source == "tfds:cifar100"] == [
        10,
        100,
    ]
    assert {e.imbalance_factor for e in CATALOG.values() if e.profile == "exponential"} == {10, 100}
    assert CATALOG["fruits"].imbalance_factor == 100
    natural = {e.name for e in CATALOG.values() if e.profile == "natural"}
    assert natural == {"places_lt", "imagenet_lt", "inaturalist2018"}


@pytest.mark.parametrize("name", [n for n, e in CATALOG.items() if e.selection == "ldam"])
def test_published_totals_follow_from_the_settings(name):
    entry = CATALOG[name]
    available = np.full(entry.classes, BALANCED[entry.classes])
    counts = profile_counts(entry.profile, available, entry.imbalance_factor, by_index=True)
    assert counts.sum() == entry.training_total


@pytest.mark.parametrize("name", CATALOG)
def test_class_numbers_are_those_of_tfds(name):
    entry = CATALOG[name]
    if not entry.source.startswith("tfds:"):
        assert entry.fetch
        return
    import tensorflow_datasets as tfds

    builder = tfds.builder(entry.source.removeprefix("tfds:"), data_dir="/nowhere")
    assert builder.info.features["label"].num_classes == entry.classes


def config_of(*arguments: str) -> Config:
    values = flags.FlagValues()
    app.define_config_flags(values)
    values(["train", *arguments])
    return app.config_from_flags(values)


@pytest.mark.parametrize("name", CATALOG)
def test_each_config_says_what_the_row_says(name):
    entry = CATALOG[name]
    path = ROOT / entry.config
    given = [f"--{n}=x" for n in ("data_dir", "train_list") if not entry.source.startswith("tfds:")]
    if entry.source == "folder":
        given = given[:1]
    config = config_of(f"--flagfile={path}", *given)
    assert config.data.dataset == name
    assert {key: config[key] for key in entry.settings} == entry.settings
    head = [line for line in path.read_text().splitlines() if line.startswith("#")]
    assert any(line.startswith("# Source: ") for line in head)
    assert f"python -m candle_tf.train --flagfile={entry.config}" in "\n".join(head)
    written = dict(
        line.removeprefix("--").split("=", 1)
        for line in path.read_text().splitlines()
        if line.startswith("--")
    )
    # The file is whole: it says all of the row itself, in the row's words.
    assert entry.settings.keys() <= written.keys()
    if entry.training_total:
        assert f"{entry.training_total:,} training images" in "\n".join(head)


def test_a_name_brings_its_settings_and_flags_win():
    config = config_of("--dataset=cub200")
    assert {key: config[key] for key in settings_of("cub200")} == settings_of("cub200")
    assert (config["imbalance_factor"], config["image_size"]) == (10, 224)
    config = config_of("--dataset=cub200", "--imbalance_factor=50", "--image_size=64")
    assert (config["imbalance_factor"], config["image_size"], config["selection"]) == (
        50,
        64,
        "seeded",
    )
    # Also where what is given is the general default.
    assert config_of("--dataset=dtd", "--imbalance_factor=100").data.imbalance_factor == 100


class StoppedError(Exception):
    """A run that was asked for, and not begun."""


@pytest.mark.parametrize(
    "given",
    [
        {"dataset": "cifar100_lt10"},
        {"dataset": "cub200", "imbalance_factor": 50.0, "image_size": 64},
        {"dataset": "dtd", "recipe": "paper"},
        {"dataset": "digits", "calibration_resolutions": (24, 32)},
        {"recipe": "patient"},
    ],
)
def test_a_call_of_train_trains_what_the_command_line_does(given, monkeypatch):
    asked = []

    def stop(config: Config) -> None:
        asked.append(config)
        raise StoppedError

    monkeypatch.setattr("candle_tf.stages.run.run", stop)
    with pytest.raises(StoppedError):
        candle_tf.train(**given)
    texts = {
        name: ",".join(map(str, value)) if isinstance(value, tuple) else value
        for name, value in given.items()
    }
    assert asked == [config_of(*(f"--{name}={text}" for name, text in texts.items()))]


def test_a_call_of_train_refuses_what_the_command_line_does(tmp_path):
    run_dir = tmp_path / "run"
    given = {"dataset": "folder", "data_dir": str(tmp_path / "images"), "run_dir": str(run_dir)}
    with pytest.raises(UserError, match="imbalance_factor=10 has no effect on --dataset=folder"):
        candle_tf.train(**given, imbalance_factor=10)
    with pytest.raises(UserError, match="gives dataset=3, which is no str"):
        candle_tf.train(dataset=3, run_dir=str(run_dir))
    with pytest.raises(UserError, match=r"gives dataset=\['a'\], which is no str"):
        candle_tf.train(dataset=["a"], run_dir=str(run_dir))
    assert not run_dir.exists()


def test_a_settings_file_is_taken_as_it_is(tmp_path):
    Config(dataset="cub200", imbalance_factor=7).to_json(tmp_path / "config.json")
    config = config_of(f"--config={tmp_path / 'config.json'}")
    assert (config["imbalance_factor"], config["image_size"]) == (7, Config()["image_size"])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"dataset": "fruits"}, "--dataset=fruits needs --data_dir. .*Fruits-360"),
        ({"dataset": "fgvc_aircraft"}, "needs --data_dir. .*fgvc-aircraft-2013b"),
        ({"dataset": "places_lt"}, "needs --data_dir and --train_list. .*Places_LT_train.txt"),
        ({"dataset": "imagenet_lt", "data_dir": "x"}, "needs --train_list. .*ImageNet_LT_train"),
        ({"dataset": "cifar"}, "not known.* cifar10_lt10, "),
        ({"dataset": "dtd", "test_list": "x"}, "--test_list=x contradicts --dataset=dtd"),
    ],
)
def test_what_the_user_must_fetch_is_said_in_one_message(settings, said):
    with pytest.raises(UserError, match=said) as caught:
        Config(**settings)
    assert "\n" not in str(caught.value)


def test_images_that_the_user_has_go_before_tfds(tmp_path):
    (tmp_path / "images" / "train").mkdir(parents=True)
    (tmp_path / "a.zip").write_bytes(b"")
    for data_dir, train_list, kind in (
        ("", "", "tfds:dtd"),
        (str(tmp_path), "", "tfds:dtd"),
        (str(tmp_path / "images"), "", "folder"),
        (str(tmp_path / "a.zip"), "", "folder"),
        (str(tmp_path), "train.txt", "list"),
    ):
        assert kind_of("dtd", data_dir, train_list) == kind
    assert kind_of("fgvc_aircraft", "x", "train.txt") == "list"
    assert kind_of("digits") == "digits"


def test_states(tmp_path):
    (tmp_path / "dtd" / "3.0.1").mkdir(parents=True)
    (tmp_path / "dtd" / "3.0.1" / "dataset_info.json").write_text("{}")
    states = {name: state(entry, tmp_path) for name, entry in CATALOG.items()}
    assert states["dtd"] == "here"
    assert states["cub200"] == "run: tfds build caltech_birds2011 --file_format=array_record"
    assert states["fruits"] == "give --data_dir"
    assert states["places_lt"] == "give --train_list"


def test_the_command_prints_and_writes_15_rows(tmp_path):
    path = tmp_path / "catalog.json"
    done = start("candle_tf.datasets", f"--json={path}", f"--tfds_dir={tmp_path}")
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert rows == [row_figures(entry, tmp_path) for entry in CATALOG.values()]
    printed = done.stdout.splitlines()[2:17]
    assert [line.split()[0] for line in printed] == list(CATALOG)

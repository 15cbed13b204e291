"""Splits as the command line draws them."""

import dataclasses
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from candle_tf.data.sources.registry import open_source
from candle_tf.data.splits.longtail import profile_counts, shot_groups
from candle_tf.data.splits.split import check_split, load_split
from candle_tf.errors import UserError
from tests import command
from tests.data.sources.test_registry import tree, write_folder
from tools.make_split import save_new, split_text

SHARED = Path(__file__).parents[1] / "../shared/data"


def start(cwd: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return command.start("tools.make_split", *arguments, cwd=cwd)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """A split of the digits: folder, what was printed, the figures."""
    folder = tmp_path_factory.mktemp("split")
    done = start(folder, "--imbalance_factor=20", "--seed=3", "--json=figures.json")
    assert done.returncode == 0, done.stderr
    return folder, done.stdout, json.loads((folder / "figures.json").read_text())


def test_the_split_is_the_one_that_the_source_gives(drawn):
    folder, _, figures = drawn
    split = load_split(folder / "split.json")
    with open_source("digits") as source:
        check_split(split, source)
        available = np.bincount(source.train.labels) - np.bincount(split.test.labels)
    expected = profile_counts("exponential", available, 20)
    assert list(figures["counts"].values()) == expected.tolist()
    assert figures["total"] == expected.sum() == figures["train"] + figures["validation"]
    assert figures["hash"] == split.hash
    groups = {name: len(members) for name, members in shot_groups(expected).items()}
    assert figures["groups"] == groups
    for subset in ("train", "validation", "test"):
        labels = getattr(split, subset).labels
        assert figures[subset] == labels.size
        assert list(figures[f"{subset}_counts"].values()) == np.bincount(labels).tolist()


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--json=split.json"], "--out and --json are both split.json"),
        (["--out=a.png", "--histogram=a.png"], "--out and --histogram are both a.png"),
        (["--histogram=b", "--json=./b"], "--histogram and --json are both b"),
    ],
)
def test_outputs_that_would_replace_each_other_are_refused(tmp_path, flags, told):
    done = start(tmp_path, *flags)
    assert done.returncode == 2
    assert told in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_table_says_what_the_figures_say(drawn):
    _, printed, figures = drawn
    assert f"hash {figures['hash']}" in printed
    assert f"{figures['total']:,} training images" in printed
    lines = [line.split() for line in printed.splitlines()]
    for name, count in figures["counts"].items():
        row = next(line for line in lines if line and line[0] == name)
        keys = ("counts", "train_counts", "validation_counts", "test_counts")
        assert row[2:] == [f"{figures[key][name]:,}" for key in keys]
        assert row[1] == ("many" if count > 100 else "medium" if count >= 20 else "few")


def test_the_imbalance_factor_is_said_of_profiles_that_have_one(drawn):
    _, printed, figures = drawn
    assert "imbalance factor 20, " in printed
    assert "imbalance" not in split_text({**figures, "profile": "natural"})


def test_an_image_is_drawn(drawn):
    folder, _, _ = drawn
    with Image.open(folder / "split.histogram.png") as image:
        assert image.format == "PNG"
        assert min(image.size) > 200


def test_another_split_is_not_overwritten(drawn):
    folder, _, figures = drawn
    split = load_split(folder / "split.json")
    save_new(split, folder / "split.json")
    with pytest.raises(UserError, match=r"split\.json holds another split"):
        save_new(dataclasses.replace(split, seed=4), folder / "split.json")
    assert load_split(folder / "split.json").hash == figures["hash"]


def test_given_counts_no_validation_subset_and_a_file_of_the_same_name(tmp_path):
    (tmp_path / "mine.png").write_bytes(b"a photo")
    (tmp_path / "counts.json").write_text(json.dumps({str(c): 100 - 9 * c for c in range(10)}))
    done = start(tmp_path, "--profile=counts", "--class_counts=counts.json",
                 "--validation_fraction=0", "--json=figures.json", "--out=mine.json")  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["counts"] == {str(c): 100 - 9 * c for c in range(10)}
    assert figures["validation"] == 0
    assert (tmp_path / "mine.png").read_bytes() == b"a photo"
    with Image.open(tmp_path / "mine.histogram.png") as image:
        assert image.format == "PNG"


def test_classes_without_test_images_are_told_below_the_table(tmp_path, drawn):
    names = [f"{label}/{i}.png" for label, size in (("ant", 9), ("lynx", 3)) for i in range(size)]
    write_folder(tmp_path / "data", tree(*names))
    done = start(tmp_path, "--dataset=folder", "--data_dir=data")
    assert done.returncode == 0, done.stderr
    table, sentence, place = done.stdout.rstrip().rsplit("\n\n", 2)
    assert "lynx" in table
    assert sentence == (
        "1 class has no test images and is not in the means: lynx (a class of fewer than 4 images "
        "gives none up)."
    )
    assert place.startswith("Saved in")
    assert "no test images" not in drawn[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile=counts", "--class_counts=5,3"], "2 class counts were given"),
        (["--split=none.json"], "none.json: the split cannot be read"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_one_message(tmp_path, arguments, said):
    done = start(tmp_path, *arguments)
    assert done.returncode == 2
    assert said in done.stderr
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("factor", "total"), [(10, 19573), (100, 10847)])
def test_published_totals_of_the_shared_cifar100(tmp_path, factor, total):
    path = (SHARED / "cifar100_lt10.zip").resolve()
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    done = start(tmp_path, "--dataset=folder", f"--data_dir={path}", "--json=figures.json",
                 "--profile=exponential", f"--imbalance_factor={factor}",
                 "--selection=first")  # fmt: skip
    assert done.returncode == 0, done.stderr
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["total"] == total
    assert figures["groups"] == ({"many": 69, "medium": 31} if factor == 10 else
                                 {"many": 35, "medium": 35, "few": 30})  # fmt: skip

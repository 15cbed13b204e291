"""What the load run counts as wrong."""

import dataclasses
import os
from collections import Counter

import tensorflow as tf

from tests.command import start
from tests.deploy.preprocessing.test_preprocessing import in_graph
from tools.load_test import Ask, Best, _figures, _load, _Memory, _Size, bad_images, good_images


def test_another_class_name_or_score_is_wrong():
    best = Best(["a", "b", "c"], [0, 1, 2], [0.5, 0.3, 0.1])
    assert best.agrees(best)
    assert best.agrees(dataclasses.replace(best, scores=[0.50001, 0.3, 0.1]))
    for wrong in (
        {"scores": [0.51, 0.3, 0.1]},
        {"ids": [3, 1, 2]},
        {"names": ["b", "a", "c"]},
        {"scores": [float("nan"), 0.3, 0.1]},
    ):
        assert not dataclasses.replace(best, **wrong).agrees(best), wrong


def test_every_image_goes_over_both_protocols():
    """An image is its number, and so is the response."""
    good = [b"%d" % number for number in range(6)]
    asked: dict[str, set[bytes]] = {"gRPC": set(), "REST": set()}

    def ask(protocol: str) -> Ask:
        def respond(images: list[bytes]) -> list[Best]:
            asked[protocol].add(images[0])
            return [Best(["a"], [int(images[0])], [0.5])]

        return respond

    with _Memory(os.getpid()) as memory:
        expected = [Best(["a"], [number], [0.5]) for number in range(6)]
        _load(
            _Size(200, 2, 60), {name: ask(name) for name in asked}, good, [b"0"], expected, memory
        )
    assert asked == {"gRPC": set(good), "REST": set(good)}


def test_growth_without_a_sample_in_both_quarters_is_not_told_as_none():
    for quarters, growth in (([5, 0, 0, 9], None), ([5, 4, 4, 0], None), ([5, 4, 4, 5], 0.25)):
        figures = _figures(_Size(8, 1, 1), Counter(), quarters, 1.0, 0)
        assert figures["memory_growth"] == growth


def test_its_good_images_are_read_and_its_bad_ones_are_not():
    good = good_images()
    assert len({in_graph(each).shape.as_list()[0] for each in good}) > 5
    for bad in bad_images(good):
        try:
            in_graph(bad)
        except tf.errors.InvalidArgumentError:
            continue
        raise AssertionError(f"{bad[:10]!r} was read")


def test_a_folder_without_versions_and_a_run_are_told_apart(tmp_path):
    done = start("tools.load_test", f"--model_base_path={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{tmp_path} holds no export" in done.stderr
    for version in ("9", "0010"):
        (tmp_path / "export/saved_model" / version).mkdir(parents=True)
    (tmp_path / "export/student.json").write_text("{}")
    done = start("tools.load_test", f"--model_base_path={tmp_path}")
    assert (done.returncode, done.stdout) == (2, "")
    assert "saved_model/0010 cannot be loaded" in done.stderr


def test_figures_that_could_not_be_written_are_refused_before_the_load(tmp_path):
    done = start("tools.load_test", "--model_base_path=nothing", f"--json={tmp_path}")
    assert done.returncode == 2
    assert f"{tmp_path} cannot be written" in done.stderr

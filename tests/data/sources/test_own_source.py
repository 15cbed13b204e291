"""Sources of a user's own: what is wrong with one is told with its name and the image."""

import dataclasses

import numpy as np
import pytest

from candle_tf.data.sources import registry
from candle_tf.data.sources.registry import LabelledImages, Source, open_source
from candle_tf.errors import UserError
from candle_tf.registry import Registry

PIXELS = np.arange(4 * 5 * 3, dtype=np.uint8).reshape(4, 5, 3)
IDS = ("a/0", "a/1", "b/0")


def subset(*labels: int) -> LabelledImages:
    return LabelledImages(IDS, np.array(labels))


def made_source(reader=lambda _: PIXELS, **changes) -> Source:
    source = Source("mine:x", ("a", "b"), subset(0, 0, 1), None, reader, lambda each: each)
    return dataclasses.replace(source, **changes)


@pytest.mark.parametrize(
    ("image", "found"),
    [
        ((PIXELS / 255).astype(np.float32), r"dtype float32 and shape \[4, 5, 3\]"),
        (PIXELS.astype(np.int64), r"dtype int64 and shape \[4, 5, 3\]"),
        (PIXELS[..., 0], r"dtype uint8 and shape \[4, 5\]"),
        (PIXELS[..., [0, 1, 2, 0]], r"dtype uint8 and shape \[4, 5, 4\]"),
        (PIXELS[..., :1], r"dtype uint8 and shape \[4, 5, 1\]"),
        (PIXELS[:0], r"dtype uint8 and shape \[0, 5, 3\]"),
        (PIXELS.tolist(), "gave list for"),
        (None, "gave NoneType for"),
    ],
)
def test_an_image_that_is_no_rgb_of_8_bits_is_named(image, found):
    source = made_source(lambda _: image)
    for read in (source.read_image, source.read_bytes):
        with pytest.raises(UserError, match=rf"source 'mine:x': .*{found}.* 'b/0'; asked is"):
            read("b/0")


def test_an_rgb_image_of_8_bits_is_read_as_it_is():
    source = made_source()
    assert source.read_image("b/0") is PIXELS
    assert source.read_bytes("b/0") == PIXELS.tobytes()
    assert made_source(encoded=lambda each: each.encode()).read_bytes("b/0") == b"b/0"


def open_with(monkeypatch, function) -> Source:
    monkeypatch.setattr(registry, "SOURCES", Registry({"mine:<x>": function}))
    return open_source("mine:x")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": subset(1, 1, 2)}, "labels 1..2 for 2 class names; count from 0"),
        ({"train": subset(-1, 0, 1)}, "labels -1..1 for 2 class names"),
        ({"class_names": ("a",)}, "labels 0..1 for 1 class names"),
        ({"test": subset(0, 1, 2)}, "labels 0..2 for 2 class names"),
        ({"validation": subset(0, 5, 1)}, "labels 0..5 for 2 class names"),
        ({"class_names": (0, 1)}, "class name 0 is of type int and no text"),
    ],
)
def test_labels_that_are_no_places_among_the_names_are_refused(monkeypatch, changes, words):
    closed = []
    source = made_source(close=lambda: closed.append(1), **changes)
    with pytest.raises(UserError, match=rf"source 'mine:<x>' \(.*open_mine\): .*{words}"):
        open_with(monkeypatch, open_mine(source))
    assert closed


def open_mine(returned):
    def function(name, config):  # noqa: ARG001
        return returned

    function.__qualname__ = "open_mine"
    return function


def test_labels_of_no_images_and_of_some_classes_are_taken(monkeypatch):
    source = made_source(test=LabelledImages((), np.zeros(0)), validation=subset(1, 1, 1))
    assert open_with(monkeypatch, open_mine(source)) is source


def test_what_is_no_source_is_refused(monkeypatch):
    with pytest.raises(UserError, match=r"'mine:<x>' .*open_mine.* returned NoneType and not a So"):
        open_with(monkeypatch, open_mine(None))
    with pytest.raises(UserError, match=r"is called with \(name, config\) and takes \(name\)"):
        open_with(monkeypatch, lambda name: made_source(name))

import sys

import pytest

from candle_tf.registry import Registry


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module that notes its import."""
    (tmp_path / "some_plugin.py").write_text("def build():\n    return 'built'\n\nSIZE = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "some_plugin"
    sys.modules.pop("some_plugin", None)


def test_names_are_known_before_anything_is_imported(module):
    registry = Registry({"b": f"{module}:build", "a": f"{module}:SIZE"})
    assert list(registry) == ["b", "a"]
    assert len(registry) == 2
    assert "a" in registry
    assert "c" not in registry
    assert module not in sys.modules
    assert registry["a"] == 3
    assert module in sys.modules
    assert registry["b"] is sys.modules[module].build


def test_objects_can_be_registered_as_they_are():
    registry = Registry({"length": len})
    assert registry["length"] is len


def test_names_can_be_registered_from_outside(module):
    registry = Registry({"a": len})
    registry.register("b", f"{module}:build")
    assert registry["b"]() == "built"


def test_a_name_is_registered_once():
    registry = Registry({"a": len})
    with pytest.raises(ValueError, match="'a' is taken"):
        registry.register("a", max)
    assert registry["a"] is len


@pytest.mark.parametrize("target", ["some_plugin", "some_plugin:", ":build", ""])
def test_a_text_that_is_no_target_is_refused(target):
    with pytest.raises(ValueError, match="module:attribute"):
        Registry({"a": target})


def test_an_unknown_name_is_a_key_error():
    with pytest.raises(KeyError, match="b"):
        Registry({"a": len})["b"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("digits", ("digits", "")),
        ("tfds:dtd:3.0.1", ("tfds:<builder>", "dtd:3.0.1")),
        ("tfds:", None),
        ("tfds", None),
        ("digits:x", None),
        ("digit", None),
        ("", None),
    ],
)
def test_names_that_take_more_are_found_by_their_beginning(given, found):
    assert Registry({"digits": len, "tfds:<builder>": max}).find(given) == found

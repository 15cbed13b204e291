import sys

import pytest

from candle_tf.errors import UserError
from candle_tf.registry import Registry, refuse_signature


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


@pytest.mark.usefixtures("module")
@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("nowhere:build", "No module named 'nowhere'"),
        ("some_plugin:nothing", "has no attribute 'nothing'"),
        ("needy_plugin:build", "No module named 'absent_package'"),
    ],
)
def test_what_cannot_be_imported_names_the_part(tmp_path, target, words):
    (tmp_path / "needy_plugin.py").write_text("import absent_package\n")
    registry = Registry({"mine": target})
    with pytest.raises(UserError, match=f"'mine' stands for '{target}', which.*{words}") as caught:
        registry["mine"]
    assert isinstance(caught.value.__cause__, ImportError | AttributeError)


def test_a_mistake_inside_a_module_keeps_its_traceback(tmp_path, monkeypatch):
    (tmp_path / "wrong_plugin.py").write_text("import sys\nsys.no_such_name\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(AttributeError, match="no_such_name"):
        Registry({"mine": "wrong_plugin:build"})["mine"]


def test_the_title_of_a_part_says_where_it_is(module):
    registry = Registry({"a": f"{module}:build", "b": Registry.find, "c": 3})
    registry["a"]
    titles = [registry.title(name) for name in registry]
    assert titles == ["'a' (some_plugin:build)", "'b' (candle_tf.registry:Registry.find)", "'c'"]


def test_a_function_of_other_arguments_is_refused_before_it_is_called():
    def build(shape, classes, *, width):
        raise AssertionError((shape, classes, width))

    refuse_signature("student 'mine'", build, "shape", "classes", width=1.0)
    refuse_signature("a built-in", max, "shape")
    with pytest.raises(UserError, match=r"student 'mine' is called with \(shape, width=1.0\) and "
                       r"takes \(shape, classes, \*, width\): .*'classes'"):  # fmt: skip
        refuse_signature("student 'mine'", build, "shape", width=1.0)
    with pytest.raises(UserError, match="teacher 'mine' is of type int, which cannot be called"):
        refuse_signature("teacher 'mine'", 3)

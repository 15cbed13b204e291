"""Which version is served while folders appear, fail, are copied and go."""

import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import tensorflow as tf

from candle_tf.serving.server import Server
from candle_tf.serving.versions import END, Versions


class Constant(tf.Module):
    """A model that always gives its own number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self._number = tf.Variable(number)

    @tf.function(input_signature=[tf.TensorSpec([None], tf.float32, "x")])
    def number(self, x: tf.Tensor) -> dict[str, tf.Tensor]:
        return {"number": self._number + 0 * tf.cast(tf.size(x), tf.int32)}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "1"
    constant = Constant(1)
    tf.saved_model.save(constant, str(folder), {"serving_default": constant.number})
    return folder


@pytest.fixture
def base(model, tmp_path) -> Path:
    shutil.copytree(model, tmp_path / "1")
    return tmp_path


def version_after_a_poll(versions: Versions) -> int | None:
    versions.poll()
    return versions.servable("small", None).version if versions.is_ready() else None


def test_a_copy_that_takes_longer_than_any_number_of_polls_is_loaded(base, model):
    versions = Versions("small", base)
    assert version_after_a_poll(versions) == 1
    parts = sorted(path for path in model.rglob("*") if path.is_file())
    (base / "2").mkdir()
    for part in parts:
        for _ in range(7):
            assert version_after_a_poll(versions) == 1
        copy = base / "2" / part.relative_to(model)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(part, copy)
    assert version_after_a_poll(versions) == 2


def test_a_broken_version_is_attempted_a_few_times_and_told_once(base, caplog):
    versions = Versions("small", base)
    assert version_after_a_poll(versions) == 1
    (base / "2").mkdir()
    (base / "2" / "saved_model.pb").write_bytes(b"broken")
    with caplog.at_level(logging.ERROR):
        for _ in range(9):
            assert version_after_a_poll(versions) == 1
    assert caplog.text.count("version 2 does not load") == 1
    assert "Traceback" not in caplog.text
    state = versions.states("small", 2)[2]
    assert state.state == END
    assert state.error
    (base / "2" / "saved_model.pb").write_bytes(b"broken in another way")
    with caplog.at_level(logging.ERROR):
        version_after_a_poll(versions)
    assert caplog.text.count("version 2 does not load") == 2


def test_beside_a_broken_version_the_highest_that_loads_is_served_from_the_start(base):
    (base / "2").mkdir()
    shutil.copytree(base / "1", base / "3")
    (base / "4" / "variables").mkdir(parents=True)
    assert version_after_a_poll(Versions("small", base)) == 3


def test_a_version_may_come_and_go_any_number_of_times(base, model):
    versions = Versions("small", base)
    for _ in range(7):
        shutil.copytree(model, base / "2")
        assert version_after_a_poll(versions) == 2
        shutil.rmtree(base / "2")
        assert version_after_a_poll(versions) == 1


def test_a_folder_that_is_removed_while_it_is_read_is_no_error(base, monkeypatch):
    versions = Versions("small", base)
    assert version_after_a_poll(versions) == 1
    (base / "2" / "part").mkdir(parents=True)
    scan = os.scandir

    def scan_without_it(path: Any) -> Any:
        if isinstance(path, str | os.PathLike) and Path(path).name == "part":
            shutil.rmtree(base / "2", ignore_errors=True)
        return scan(path)

    monkeypatch.setattr(os, "scandir", scan_without_it)
    assert version_after_a_poll(versions) == 1
    assert not (base / "2").exists()


def test_the_watch_continues_after_a_check_that_failed(tmp_path, caplog):
    stop = threading.Event()

    class Away(Versions):
        checks = 0

        def poll(self) -> None:
            self.checks += 1
            if self.checks == 4:
                stop.set()
            raise OSError("the disk is away")

    versions = Away("small", tmp_path)
    with Server(versions, port=0, rest_api_port=0) as server, caplog.at_level(logging.ERROR):
        server.watch(stop, every=0.01)
    assert versions.checks == 4
    assert caplog.text.count("The check for new versions failed") == 1
    assert "the disk is away" in caplog.text


def test_why_no_version_is_served(tmp_path):
    versions = Versions("small", tmp_path)
    assert version_after_a_poll(versions) is None
    assert "folders named by numbers" in versions.reasons()
    (tmp_path / "7").mkdir()
    assert version_after_a_poll(versions) is None
    assert versions.reasons().startswith("Version 7: ")
    assert "saved_model.pb" in versions.reasons()

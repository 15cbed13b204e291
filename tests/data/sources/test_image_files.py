"""Image files to classify, from files, folders and archives."""

import os

import pytest

from candle_tf.data.sources.image_files import open_image_files
from candle_tf.errors import UserError
from tests.data.sources.test_registry import write_old_zip


def test_files_folders_and_archives_are_listed_in_order(tmp_path):
    (tmp_path / "a").mkdir()
    for name in ("a/2.png", "a/1.jpg", "a/notes.txt", "b.dat"):
        (tmp_path / name).write_bytes(name.encode())
    with open_image_files([tmp_path / "b.dat", tmp_path / "a"]) as files:
        names = [file.name.removeprefix(f"{tmp_path}/") for file in files]
        assert names == ["b.dat", "a/1.jpg", "a/2.png"]
        assert [file.read() for file in files] == [name.encode() for name in names]


@pytest.mark.parametrize("bad", [b"caf\xe9.png", b"caf\xe9/1.png", b"e\xcc\x81\xff.png"])
def test_names_of_any_bytes_are_kept_as_they_are_on_disk(tmp_path, bad):
    contents = {bad: b"latin", "cafe\u0301.png".encode(): b"accent", b"plain.png": b"plain"}
    for name, content in contents.items():
        path = os.path.join(os.fsencode(tmp_path), name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "wb") as file:
            file.write(content)
    with open_image_files([tmp_path]) as files:
        found = {os.fsencode(file.name.removeprefix(f"{tmp_path}/")): file.read() for file in files}
    # Names of text are in NFC, on every machine.
    assert found == {bad: b"latin", "café.png".encode(): b"accent", b"plain.png": b"plain"}
    # It is the name that the file has where it is given by itself.
    named = os.path.join(str(tmp_path), os.fsdecode(bad))
    with open_image_files([named]) as files:
        assert [(file.name, file.read()) for file in files] == [(named, b"latin")]


def test_names_of_an_old_archive_take_their_encoding(tmp_path):
    path = write_old_zip(tmp_path, ["表/1.png", "ソ/2.png"], "cp932")
    with pytest.raises(UserError, match="--archive_encoding"), open_image_files([path]):
        pass
    with open_image_files([path], "cp932") as files:
        assert {file.name.removeprefix(f"{path}/") for file in files} == {"表/1.png", "ソ/2.png"}


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "x.png").write_bytes(b"x")
    with open_image_files(["~/x.png"]) as files:
        assert files[0].read() == b"x"


@pytest.mark.parametrize("name", ["absent", "empty"])
def test_nothing_to_classify_is_refused(tmp_path, name):
    (tmp_path / "empty").mkdir()
    with (
        pytest.raises(UserError, match=f"{name}.*Give image files"),
        open_image_files([tmp_path / name]),
    ):
        pass

"""Image files to classify, from files, folders and archives."""

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

"""Image files to classify, from files, folders and archives."""

import os
import threading
import unicodedata
import zipfile

import pytest

from candle_tf.data.sources.image_files import open_image_files, refuse_inputs_as_outputs
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


def test_files_that_are_left_out_are_told(tmp_path, caplog):
    folder, archive = tmp_path / "photos", tmp_path / "more.zip"
    for name in ("1.png", "scan.TIF", "sub/scan.tif", "sub/notes.txt", "Thumbs.db", ".DS_Store"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("2.png", b"x")
        for number in range(5):
            file.writestr(f"{number}.raw", b"x")
    with open_image_files([folder, archive]) as files:
        assert [os.path.basename(file.name) for file in files] == ["1.png", "2.png"]
    of_folder, of_archive = (record.getMessage() for record in caplog.records)
    assert f"{folder}: 3 files that are not read as images (2 .tif, 1 .txt)" in of_folder
    assert "'scan.TIF', 'sub/notes.txt', 'sub/scan.tif'. Images are named *.jpg" in of_folder
    assert f"{archive}: 5 files that are not read as images (5 .raw)" in of_archive
    assert "e.g. '0.raw', '1.raw', '2.raw'." in of_archive


def test_where_no_file_is_an_image_the_error_says_what_is_there(tmp_path):
    for name in ("1.tif", "2.tif", "3.txt"):
        (tmp_path / name).write_bytes(b"x")
    words = r"no image in .*3 files that are not read as images \(2 \.tif, 1 \.txt\)"
    with pytest.raises(UserError, match=words), open_image_files([tmp_path]):
        pass


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


@pytest.mark.parametrize(
    ("name", "words"),
    [("", "A path is empty.*Give image files"), ("x" * 5000, "xx cannot be used")],
)
def test_paths_that_cannot_be_one_are_refused(tmp_path, monkeypatch, name, words):
    # Else the current folder would be classified.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "1.png").write_bytes(b"x")
    with (
        pytest.raises(UserError, match=words.replace("xx", "x{100}\\.\\.\\.")),
        open_image_files([name]),
    ):
        pass


def test_a_pipe_is_one_image(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(b"image" * 100_000,))
    writer.start()
    with open_image_files([pipe]) as files:
        writer.join()
        assert [file.name for file in files] == [str(pipe)]
        # It is there a second time, though it was read.
        assert [files[0].read() for _ in range(2)] == [b"image" * 100_000] * 2


def test_a_device_without_an_end_is_too_large():
    with (
        pytest.raises(UserError, match="more than the 268,435,456"),
        open_image_files(["/dev/zero"]),
    ):
        pass


def test_outputs_that_are_images_are_refused(tmp_path):
    folder, archive = tmp_path / "photos", tmp_path / "more.zip"
    folder.mkdir()
    accent = unicodedata.normalize("NFD", "é.png")
    for path in (tmp_path / "a.png", folder / "1.png", folder / accent, folder / "old.csv"):
        path.write_bytes(path.name.encode())
    (folder / "link.png").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere").write_bytes(b"x")
    (tmp_path / "alias").symlink_to(folder)
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("1.png", b"x")
    refused = ["a.png", "more.zip", "alias/1.png", "elsewhere", f"photos/{accent}"]
    with open_image_files([tmp_path / "a.png", folder, archive]) as files:
        for name in refused:
            with pytest.raises(UserError, match=f"{name} is to be classified"):
                refuse_inputs_as_outputs(files, [tmp_path / "new", tmp_path / name])
        refuse_inputs_as_outputs(files, [tmp_path / "new", folder / "old.csv", folder / "new.png"])

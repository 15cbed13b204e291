import zipfile
from pathlib import Path

import pytest

from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError
from tests.data.sources.test_registry import tree, write_folder, write_old_zip, write_tar, write_zip
from tools.hide_labels import draw_images, hide_labels


def _archive(path, counts: dict[str, int], subset: str = "train", packed=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "a", packed) as archive:
        for name, count in counts.items():
            for number in range(count):
                # Not images: nothing is decoded. The bytes tell one from another.
                archive.writestr(f"{subset}/{name}/{number}.jpg", f"{subset} {name} {number}")


def _bytes(path) -> set[bytes]:
    with zipfile.ZipFile(path) as archive:
        return {archive.read(name) for name in archive.namelist()}


def test_each_class_loses_its_part_and_no_image_is_lost(tmp_path):
    source, out = tmp_path / "all.zip", tmp_path / "hidden"
    _archive(source, {"cat": 10, "dog": 5, "owl": 1})
    _archive(source, {"cat": 2, "owl": 3}, subset="test")
    assert hide_labels(source, out, 0.5, seed=0) == (9, 7)
    with zipfile.ZipFile(out / "labelled-0.5-0.zip") as archive:
        names = archive.namelist()
    kept = {name: sum(f"train/{name}/" in each for each in names) for name in ("cat", "dog", "owl")}
    assert kept == {"cat": 5, "dog": 3, "owl": 1}
    assert sum(name.startswith("test/") for name in names) == 5
    hidden = _bytes(out / "unlabelled-0.5-0.zip")
    assert len(hidden) == 7
    assert all(each.startswith(b"train") for each in hidden)
    assert not hidden & _bytes(out / "labelled-0.5-0.zip")
    assert hidden | _bytes(out / "labelled-0.5-0.zip") == _bytes(source)


def test_names_do_not_give_classes_away(tmp_path):
    source, out = tmp_path / "all.zip", tmp_path / "hidden"
    _archive(source, {"cat": 20, "dog": 20})
    hide_labels(source, out, 0.5, seed=0)
    with zipfile.ZipFile(out / "unlabelled-0.5-0.zip") as archive:
        names = sorted(archive.namelist())
        classes = [archive.read(name).split()[1] for name in names]
    assert names == [f"{number:06}.jpg" for number in range(20)]
    assert classes != sorted(classes)
    assert classes != sorted(classes, reverse=True)


def test_a_seed_draws_the_same_images_in_any_order_of_names():
    names = [f"train/{c}/{i}.jpg" for c in "ab" for i in range(30)]
    first = draw_images(names, 0.3, seed=1)
    assert first == draw_images(reversed(names), 0.3, seed=1)
    assert first != draw_images(names, 0.3, seed=2)
    assert len(first) == 18


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "does not exist"), (b"no archive", "neither a folder nor a whole ZIP or TAR file")],
)
def test_a_file_that_is_no_archive_is_an_error_of_the_user(tmp_path, content, message):
    path = tmp_path / "images.zip"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError, match=rf"images\.zip.* {message}"):
        hide_labels(path, tmp_path / "hidden", 0.5, seed=0)


@pytest.mark.parametrize("write", [write_folder, write_zip, write_tar])
def test_a_class_loses_its_part_of_all_its_folders_and_junk_is_left_out(tmp_path, write):
    names = [f"train/{c}/day {i if c == 'cat' else 0}/{i}.png" for c in ("cat", "dog")
             for i in range(4)]  # fmt: skip
    junk = ["train/cat/._0.png", "__MACOSX/train/cat/1.png", "train/.cache/dog/2.png"]
    files = tree(*names, "train/loose.png", "test/cat/0.png", *junk)
    (tmp_path / "data").mkdir()
    out = tmp_path / "hidden"
    assert hide_labels(Path(write(tmp_path / "data", files)), out, 0.5, seed=0) == (4, 4)
    with zipfile.ZipFile(out / "labelled-0.5-0.zip") as archive:
        kept = archive.namelist()
    assert [sum(f"/{c}/day" in name for name in kept) for c in ("cat", "dog")] == [2, 2]
    assert {"train/loose.png", "test/cat/0.png"} <= set(kept)
    copied = _bytes(out / "labelled-0.5-0.zip") | _bytes(out / "unlabelled-0.5-0.zip")
    assert copied == {content for name, content in files.items() if name not in junk}


@pytest.mark.parametrize("encoding", ["utf-8", "cp932"])
def test_class_names_that_say_no_encoding_stay_what_they_are(tmp_path, encoding):
    names = [f"train/{label}/{i}.png" for label in ("表", "ソフト") for i in range(4)]
    source, out = Path(write_old_zip(tmp_path, tuple(names), encoding)), tmp_path / "hidden"
    given = "" if encoding == "utf-8" else encoding
    if given:
        with pytest.raises(UserError, match=r"unknown encoding.*--archive_encoding"):
            hide_labels(source, out, 0.5, seed=0)
    assert hide_labels(source, out, 0.5, seed=0, encoding=given) == (4, 4)
    with open_source("folder", str(out / "labelled-0.5-0.zip")) as labelled:
        assert labelled.class_names == ("ソフト", "表")
        assert labelled.train.labels.tolist() == [0, 0, 1, 1]


def test_an_archive_is_not_overwritten_by_a_part_of_itself(tmp_path):
    source = tmp_path / "labelled-0.5-0.zip"
    _archive(source, {"cat": 4})
    before = source.read_bytes()
    with pytest.raises(UserError, match="would overwrite"):
        hide_labels(source, tmp_path, 0.5, seed=0)
    assert source.read_bytes() == before


def test_other_layouts_and_small_fractions_are_refused_and_leave_nothing(tmp_path):
    source = tmp_path / "all.zip"
    _archive(source, {"cat": 4}, subset="pictures")
    with pytest.raises(UserError, match="hides no label: it has 0 images"):
        hide_labels(source, tmp_path / "hidden", 0.5, seed=0)
    _archive(source, {"cat": 4})
    with pytest.raises(UserError, match="larger fraction"):
        hide_labels(source, tmp_path / "hidden", 0.2, seed=0)
    assert not (tmp_path / "hidden").exists()


def test_a_damaged_member_is_named_and_leaves_what_was_there(tmp_path):
    source, out = tmp_path / "all.zip", tmp_path / "hidden"
    _archive(source, {"cat": 6})
    hide_labels(source, out, 0.5, seed=0)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    assert sorted(before) == ["labelled-0.5-0.zip", "unlabelled-0.5-0.zip"]
    content = source.read_bytes()
    source.write_bytes(content.replace(b"train cat 4", b"train cat 9", 1))
    with pytest.raises(UserError, match=r"train/cat/4\.jpg' cannot be unpacked \(Bad CRC"):
        hide_labels(source, out, 0.5, seed=0)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


@pytest.mark.parametrize("packed", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_do_not_unpack_are_errors_of_the_user(tmp_path, packed):
    source = tmp_path / "all.zip"
    _archive(source, {"cat": 6}, packed=packed)
    with zipfile.ZipFile(source) as archive:
        member = archive.infolist()[0]
    content = bytearray(source.read_bytes())
    begin = member.header_offset + 30 + len(member.filename)
    content[begin : begin + member.compress_size] = b"\xff" * member.compress_size
    source.write_bytes(content)
    with pytest.raises(UserError, match=r"train/cat/0\.jpg' cannot be unpacked"):
        hide_labels(source, tmp_path / "hidden", 0.5, seed=0)
    assert not list((tmp_path / "hidden").iterdir())

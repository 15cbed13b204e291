"""Layouts that data sets are published in, in a folder, a ZIP and a TAR alike."""

import os
import re
import subprocess
from pathlib import Path

import pytest

from candle_tf.data.sources.archives import is_archive
from candle_tf.data.sources.registry import open_source
from candle_tf.data.sources.subset_names import subset_names, subset_of_value
from candle_tf.errors import UserError
from tests.data.sources.test_registry import (
    image,
    tree,
    write_folder,
    write_old_zip,
    write_tar,
    write_zip,
)

WRITERS = pytest.mark.parametrize("write", [write_folder, write_zip, write_tar])


def data_set(train: str, test: str, validation: str = "") -> dict[str, bytes]:
    """Two classes in each subset, whose folders are given."""
    names = [f"{subset}/{label}/{i}.png" for subset in (train, test, validation) if subset
             for label in ("cat", "dog") for i in range(2)]  # fmt: skip
    return tree(*names)


@WRITERS
@pytest.mark.parametrize(
    ("train", "test", "validation"),
    [
        ("train", "test", "val"),
        ("Train", "Test", ""),
        ("TRAIN", "TEST", "VALID"),
        ("training", "testing", "validation"),
        ("training_set", "test_set", ""),
        ("training_set/training_set", "test_set/test_set", ""),
        ("seg_train/seg_train", "seg_test/seg_test", ""),
        ("seg_train", "seg_test", ""),
        ("train", "test", "valid"),
        ("train_images", "test_images", "val_images"),
        ("TrainData", "TestData", ""),
        ("train2017", "test2017", "val2017"),
        ("alphabet_train/alphabet_train", "alphabet_test/alphabet_test", ""),
        ("pets/train", "pets/test", ""),
        ("archive/pets/Training", "archive/pets/Test", "archive/pets/Validation"),
        ("train_data/train", "train_data/test", ""),
        ("train", "test_set", "EVAL"),
        ("images/train", "images/test", "images/val"),
    ],
)
def test_usual_names_of_subsets(tmp_path, write, train, test, validation):
    files = data_set(train, test, validation) | {"README.txt": b"text"}
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.class_names == ("cat", "dog")
        for subset, folder in (
            (source.train, train), (source.test, test), (source.validation, validation)
        ):  # fmt: skip
            assert bool(folder) == (subset is not None)
            if subset is not None:
                assert subset.labels.tolist() == [0, 0, 1, 1]
                expected = [files[f"{folder}/{label}/{i}.png"]
                            for label in ("cat", "dog") for i in range(2)]  # fmt: skip
                assert [source.read_bytes(image_id) for image_id in subset.ids] == expected


@WRITERS
@pytest.mark.parametrize("validation", ["val", "Valid", "validation_set"])
def test_validation_without_test_becomes_the_test_subset(tmp_path, write, validation):
    files = data_set("Train", "", validation)
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.validation is None
        assert len(source.test.ids) == 4


@WRITERS
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("train/cat.0.png", "train/dog.0.png", "test/0.png"), "named after subsets, but contain"),
        (("pets/Train/cat.0.png", "pets/Test/0.png"), "named after subsets, but contain images"),
        (("images/1.png", "masks/1.png"), "after kinds of files"),
        (("train/images/1.png", "train/labels/1.txt", "test/images/2.png"), "after kinds of files"),
        (("images/cat/1.png", "Masks/cat/1.png"), "after kinds of files"),
        (("cat/train/1.png", "cat/test/2.png", "dog/train/3.png"), "Put the subsets above"),
        (("train/a/1.png", "training/b/1.png", "test/a/1.png"), "are all training folders"),
    ],
)
def test_other_layouts_are_refused_with_what_was_found(tmp_path, write, names, message):
    with pytest.raises(UserError, match=message):
        open_source("folder", write(tmp_path, tree(*names)))


def in_each(tops: tuple[str, ...], *inner: str) -> dict[str, bytes]:
    """Two images in each of some folders in each of others."""
    return tree(*(f"{top}/{name}/{i}.png" for top in tops for name in inner for i in range(2)))


COPIES = ("color", "grayscale", "segmented")


@WRITERS
@pytest.mark.parametrize(
    ("tops", "more"),
    [
        (COPIES, ()),
        (("fold1", "fold2", "fold_3"), ()),
        (("leaves-colour", "leaves-Grey"), ()),
        (("original", "augmented"), ("original/rust/1.png", "augmented/rare/1.png")),
        (("train/raw", "train/cropped"), ("test/raw/scab/1.png",)),
    ],
)
def test_copies_of_the_data_beside_each_other_are_no_classes(tmp_path, write, tops, more):
    files = in_each(tops, "scab", "rust") | tree(*more)
    with pytest.raises(UserError, match=r"copies or parts.*same folders \('rust', 'scab'\)"):
        open_source("folder", write(tmp_path, files))


def test_the_folder_that_a_refusal_of_copies_names_can_be_given(tmp_path):
    data = write_folder(tmp_path, in_each(tuple(f"plants/{top}" for top in COPIES), "rust", "scab"))
    with pytest.raises(UserError) as caught:
        open_source("folder", data)
    named = re.search("--data_dir=([^,]*),", str(caught.value)).group(1)
    with open_source("folder", named) as source:
        assert source.class_names == ("rust", "scab")
        assert len(source.train.ids) == 4


@WRITERS
@pytest.mark.parametrize(
    "files",
    [
        in_each(("cat", "dog"), "day", "night"),
        in_each(("color", "cat"), "day", "night"),  # one name of a copy makes no copies
    ],
)
def test_folders_that_all_classes_have_are_told_and_stay_parts_of_them(
    tmp_path, write, files, caplog
):
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.class_names == tuple(sorted({name.partition("/")[0] for name in files}))
        assert len(source.train.ids) == 8
    told = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(told) == 1
    assert "are read as classes. Each of them holds the folders 'day', 'night'" in told[0]


@WRITERS
@pytest.mark.parametrize(
    "files",
    [
        in_each(("cat", "dog"), "day", "night") | tree("cat/1.png"),
        in_each(("cat", "dog"), "day", "night") | tree("dog/dusk/1.png"),
        in_each(("cat", "dog"), "images"),
        in_each(("color", "gray"), "images"),
        in_each(("color", "gray"), "day", "night") | tree("gray/1.png"),
    ],
)
def test_of_other_folders_in_class_folders_nothing_is_said(tmp_path, write, files, caplog):
    with open_source("folder", write(tmp_path, files)) as source:
        assert len(source.class_names) == 2
    assert not caplog.records


@WRITERS
@pytest.mark.parametrize(
    ("files", "masks"),
    [
        (in_each(("ill", "well"), "images", "masks"), "'ill/masks', 'well/masks'"),
        (in_each(("ill", "well"), "images") | tree("ill/lung masks/1.png"), "'ill/lung masks'"),
        (tree("ill/1.png", "ill/Ground_Truth/1.png", "well/1.png"), "'ill/Ground_Truth'"),
        (in_each(("train/ill", "train/well", "test/ill"), "img") | tree("test/ill/GT/1.png"),
         "'test/ill/GT'"),
    ],
)  # fmt: skip
def test_masks_beside_the_images_of_a_class_are_refused(tmp_path, write, files, masks):
    path = write(tmp_path, files)
    for known in ((), ("ill", "well")):
        with pytest.raises(UserError, match=f"the folders {masks} are named after masks"):
            open_source("folder", path, known_classes=known)


@WRITERS
@pytest.mark.parametrize(
    "files",
    [
        in_each(("mask", "no_mask"), "day"),
        in_each(("train/mask", "train/no_mask", "test/mask", "test/no_mask"), "day"),
        in_each(("person", "dog"), "images") | tree("person/with_mask/1.png"),
        tree("person/1.png", "person/mask on/1.png", "dog/1.png"),
        in_each(("wine", "beer"), "label"),
        in_each(("cat", "dog"), "images") | {"cat/labels/1.txt": b"0"},
        in_each(("bus", "tram"), "train") | tree("bus/training/1.png"),
        in_each(("bus", "tram"), "old", "train"),
    ],
)
def test_masks_and_labels_may_be_classes_or_parts_of_classes(tmp_path, write, files):
    with open_source("folder", write(tmp_path, files)) as source:
        images = [name for name in files if name.endswith(".png")]
        subsets = [each for each in (source.train, source.test) if each]
        assert sorted(name for each in subsets for name in each.ids) == sorted(images)


@WRITERS
@pytest.mark.parametrize(
    ("files", "message"),
    [
        (in_each(("cat", "dog"), "train", "test") | tree("dog/1.png"), "cat contains folders .*"
         r"\('test', 'train'\)\. Put the subsets above"),
        (in_each(("cat", "dog"), "train", "test", "extra"), "Put the subsets above"),
        (tree("cat/train/1.png", "cat/val/2.png", "dog/3.png"), "Put the subsets above"),
        (in_each(("cat/images", "dog/images"), "train", "test"), "cat/images contains folders"),
        (in_each(("jar", "nut"), "train/good", "test/bent", "ground_truth/bent"),
         "to learn the defects of one object"),
    ],
)  # fmt: skip
def test_subsets_within_classes_are_refused_whatever_is_beside_them(
    tmp_path, write, files, message
):
    with pytest.raises(UserError, match=message):
        open_source("folder", write(tmp_path, files))


KNOWN = ("bus", "cat", "dog", "train")


@WRITERS
@pytest.mark.parametrize(
    ("names", "tested", "classes"),
    [
        (("cat/1.png", "cat/2.png"), False, ["cat", "cat"]),
        (("cat/day/1.png", "cat/night/2.png"), False, ["cat", "cat"]),
        (("cat/cat/1.png", "cat/dog/2.png"), False, ["cat", "dog"]),
        (("new/dog/1.png", "new/cat/2.png"), False, ["cat", "dog"]),
        (("cat/1.png", "dog/"), False, ["cat"]),
        (("bus/day/1.png", "train/day/2.png"), False, ["bus", "train"]),
        (("train/cat/1.png",), False, ["cat"]),
        (("test/cat/1.png", "test/dog/2.png"), True, ["cat", "dog"]),
        (("val/cat/1.png",), True, ["cat"]),
        (("val/cat/1.png", "test/dog/2.png"), True, ["dog"]),
        (("train/cat/1.png", "test/cat/2.png", "test/dog/3.png"), True, ["cat", "dog"]),
    ],
)
def test_images_that_are_measured_need_neither_all_classes_nor_a_training_subset(
    tmp_path, write, names, tested, classes, caplog
):
    path = write(tmp_path, tree(*names))
    with open_source("folder", path, known_classes=KNOWN) as source:
        assert (source.test is not None) == tested
        subset = source.test if tested else source.train
        assert [source.class_names[label] for label in subset.labels] == classes
    assert not [record for record in caplog.records if record.levelname == "WARNING"]


@WRITERS
@pytest.mark.parametrize("other", ["extra/new/3.png", "unlabelled/3.png"])
def test_validation_images_are_measured_also_beside_another_folder(tmp_path, write, other):
    path = write(tmp_path, tree("train/cat/1.png", "train/dog/1.png", "val/dog/2.png", other))
    with open_source("folder", path, known_classes=KNOWN) as source:
        assert source.test.ids == ("val/dog/2.png",)
        assert source.train.ids == ("train/cat/1.png", "train/dog/1.png")
        assert source.validation is None


@WRITERS
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("1.png", "2.png"), "no class folders with images; found no folders, 2 images"),
        (("train/cat/1.png", "test/2.png"), "test holds no class folders. So its 1 images have no"),
        (("color/cat/1.png", "color/dog/1.png", "gray/cat/1.png", "gray/dog/1.png"), "copies"),
    ],
)
def test_images_without_classes_cannot_be_measured(tmp_path, write, names, message):
    with pytest.raises(UserError, match=message):
        open_source("folder", write(tmp_path, tree(*names)), known_classes=KNOWN)


@WRITERS
def test_classes_may_have_names_like_subsets(tmp_path, write):
    files = tree("train/1.png", "bus/1.png", "train station/1.png")
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.class_names == ("bus", "train", "train station")


@WRITERS
def test_folders_of_labels_beside_the_images_are_no_classes(tmp_path, write):
    """As tools for detection write them, here with class folders."""
    files = data_set("images/train", "images/test") | {"labels/train/1.txt": b"0 0.5 0.5 1 1"}
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.class_names == ("cat", "dog")
        assert (len(source.train.ids), len(source.test.ids)) == (4, 4)
    flat = tree("images/train/1.png", "images/val/2.png") | {"labels/train/1.txt": b"0 0.5 0.5 1 1"}
    (tmp_path / "flat").mkdir()
    with pytest.raises(UserError, match="named after subsets, but contain images"):
        open_source("folder", write(tmp_path / "flat", flat))


@WRITERS
@pytest.mark.parametrize("alike", ["cat ", "cat\u200f", "\ufeffcat", "cat\u00a0"])
def test_folders_whose_names_cannot_be_told_apart_are_one_class(tmp_path, write, alike, caplog):
    files = tree(f"train/{alike}/1.png", "train/cat/2.png", "train/dog/3.png", "test/cat/4.png",
                 f"test/dog{alike.replace('cat', '')}/5.png")  # fmt: skip
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.class_names == ("cat", "dog")
        assert source.train.labels.tolist() == [0, 0, 1]
        assert source.test.labels.tolist() == [0, 1]
        expected = {files[name] for name in files if name.startswith("train/")}
        assert {source.read_bytes(image_id) for image_id in source.train.ids} == expected
    assert "are one class, 'cat'" in caplog.text


@WRITERS
def test_names_that_differ_in_case_are_told(tmp_path, write, caplog):
    files = tree("Cat/1.png", "cat/1.png", "dog/1.png")
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.class_names == ("Cat", "cat", "dog")
    assert "upper and lower case only: 'Cat' and 'cat'. If" in caplog.text


@WRITERS
def test_spaces_of_other_kinds_are_plain_ones_and_more_of_them_are_told(tmp_path, write, caplog):
    files = tree("red\u00a0fox/1.png", "red\u2009fox/2.png", "red fox/3.png", "red  fox/4.png")
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.class_names == ("red  fox", "red fox")
        assert source.train.labels.tolist() == [0, 1, 1, 1]
    assert "in the number of spaces only: 'red  fox' and 'red fox'. If" in caplog.text
    assert "upper and lower case" not in caplog.text


@WRITERS
def test_class_folders_of_floats_and_negative_numbers_are_in_order(tmp_path, write):
    names = ("-10.0", "-1", "0.0", "1.0", "2.5", "10.0", "11", "1.0 kg")
    with open_source("folder", write(tmp_path, tree(*(f"{n}/1.png" for n in names)))) as source:
        assert source.class_names == names


@WRITERS
def test_numbered_class_folders_are_in_order(tmp_path, write):
    files = tree(*(f"{number}/1.png" for number in range(12)), "other/1.png")
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.class_names == (*map(str, range(12)), "other")


def test_names_of_subsets():
    assert subset_names(["seg_train", "seg_test", "seg_pred"]) == {
        "seg_train": "train", "seg_test": "test"
    }  # fmt: skip
    assert subset_names(["train station", "bus"]) == {}
    assert subset_names(["bird_train", "bird_valid"]) == {
        "bird_train": "train", "bird_valid": "validation"
    }  # fmt: skip
    assert subset_names(["train_test", "latest", "contest"]) == {}
    assert [subset_of_value(v) for v in ("TRAIN", "valid", "Testing", "x", "")] == [
        "train", "validation", "test", "", ""
    ]  # fmt: skip


NAMES = ("表/0.png", "表/1.png", "ソフト/0.png", "山/0.png", "山/1.png")


def test_names_of_an_old_zip_are_read_in_the_given_encoding_only(tmp_path):
    path = write_old_zip(tmp_path, NAMES, "cp932")
    with pytest.raises(UserError, match=r"unknown encoding.*--archive_encoding.*cp932: 'ソフト/"):
        open_source("folder", path)
    with open_source("folder", path, archive_encoding="cp932") as source:
        assert source.class_names == tuple(sorted({name[: name.index("/")] for name in NAMES}))
        assert source.read_bytes("山/1.png") == image(4)
    with pytest.raises(UserError, match=r"not valid in --archive_encoding=ascii"):
        open_source("folder", path, archive_encoding="ascii")


def test_names_of_a_zip_that_are_utf_8_without_saying_so_are_utf_8(tmp_path):
    with open_source("folder", write_old_zip(tmp_path, NAMES, "utf-8")) as source:
        assert source.class_names == tuple(sorted({name[: name.index("/")] for name in NAMES}))


def test_names_of_a_tar_are_read_in_the_given_encoding_only(tmp_path):
    import io
    import tarfile

    path = tmp_path / "data.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT, encoding="cp932") as archive:
        for i, name in enumerate(NAMES):
            member = tarfile.TarInfo(name)
            member.size = len(image(i))
            archive.addfile(member, io.BytesIO(image(i)))
    with pytest.raises(UserError, match=r"unknown encoding.*cp932: '"):
        open_source("folder", str(path))
    with open_source("folder", str(path), archive_encoding="cp932") as source:
        assert source.read_bytes("山/1.png") == image(4)


@pytest.mark.parametrize("top", ["PKMN", "PK", "BZh9"])
def test_a_tar_whose_first_name_begins_as_another_archive_is_a_tar(tmp_path, top):
    files = tree(f"{top}/ant/0.png", f"{top}/bee/1.png")
    with open_source("folder", write_tar(tmp_path, files)) as source:
        assert source.class_names == ("ant", "bee")
        assert source.read_bytes("bee/1.png") == image(1)
    assert is_archive(tmp_path / "data.tar")


@pytest.mark.parametrize("marker", [b"", b"PK\x07\x08", b"PK00"])
def test_a_zip_may_begin_as_one_of_several_pieces(tmp_path, marker):
    path = Path(write_zip(tmp_path, tree("ant/0.png", "bee/1.png")))
    path.write_bytes(marker + path.read_bytes())
    assert is_archive(path)
    with open_source("folder", str(path)) as source:
        assert source.read_bytes("bee/1.png") == image(1)


def test_a_zip_without_a_member_is_a_zip_and_two_letters_make_none(tmp_path):
    with pytest.raises(UserError, match="no images found, but no folders"):
        open_source("folder", write_zip(tmp_path, {}))
    (tmp_path / "note").write_text("PKU is a disease." * 40)
    assert not is_archive(tmp_path / "note")


@WRITERS
def test_jfif_is_an_extension_of_images(tmp_path, write):
    files = {f"{label}/1.{kind}": image(0) for label, kind in (("ant", "jfif"), ("bee", "JFIF"))}
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.train.ids == ("ant/1.jfif", "bee/1.JFIF")


def test_folders_nested_without_end_are_listed(tmp_path):
    write_folder(tmp_path, tree("train/cat/0.png", "train/dog/1.png"))
    deepest = os.open(tmp_path / "train/cat", os.O_RDONLY)
    for _ in range(1200):
        os.mkdir("d", dir_fd=deepest)
        inner = os.open("d", os.O_RDONLY, dir_fd=deepest)
        os.close(deepest)
        deepest = inner
    os.close(deepest)
    image_path = tmp_path / ("train/cat" + "/d" * 1200) / "2.png"
    image_path.write_bytes((tmp_path / "train/cat/0.png").read_bytes())
    try:
        with open_source("folder", str(tmp_path)) as source:
            assert source.class_names == ("cat", "dog")
            assert len(source.train.ids) == 3
    finally:  # what cleans up after tests descends by recursion
        subprocess.run(["rm", "-rf", str(tmp_path / "train")], check=True)

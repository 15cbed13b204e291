import io
import json
import os
import subprocess
import tarfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from candle_tf.data.sources.registry import LabelledImages, open_source
from candle_tf.errors import UserError

SHARED = Path(__file__).parents[3] / "../shared/data"


def image(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (4, 3), (value, 0, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def tree(*names: str) -> dict[str, bytes]:
    """An image per name, the i-th with red i; bytes for others; nothing for folders."""
    return {
        name: image(i) if name.lower().endswith((".png", ".jpg", ".jpeg")) else b"text"
        for i, name in enumerate(names)
    }


def write_folder(root: Path, files: dict[str, bytes]) -> str:
    for name, data in files.items():
        path = root / name
        if name.endswith("/"):
            path.mkdir(parents=True)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    return str(root)


def write_zip(root: Path, files: dict[str, bytes]) -> str:
    path = root / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, b"" if name.endswith("/") else data)
    return str(path)


def write_old_zip(root: Path, names: tuple[str, ...], encoding: str) -> str:
    """A ZIP as packers of old machines write it: names in their encoding, which is not stated."""
    path = root / "data.zip"
    # zipfile writes names that are not ASCII as UTF-8 and says so: they are put in afterwards.
    written = [name.encode(encoding) for name in names]
    stand_ins = [f"q{i}".ljust(len(name), "z").encode() for i, name in enumerate(written)]
    with zipfile.ZipFile(path, "w") as archive:
        for i, name in enumerate(stand_ins):
            archive.writestr(name.decode(), image(i))
    data = path.read_bytes()
    for stand_in, name in zip(stand_ins, written, strict=True):
        assert data.count(stand_in) == 2
        data = data.replace(stand_in, name)
    path.write_bytes(data)
    return str(path)


def write_tar(root: Path, files: dict[str, bytes], mode: str = "w") -> str:
    path = root / "data.tar"
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name.rstrip("/"))
            member.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            member.size = 0 if name.endswith("/") else len(data)
            archive.addfile(member, io.BytesIO(data))
    return str(path)


def write_tar_gz(root: Path, files: dict[str, bytes]) -> str:
    return write_tar(root, files, "w:gz")


WRITERS = pytest.mark.parametrize("write", [write_folder, write_zip, write_tar, write_tar_gz])

BOTH_SUBSETS = ("train/cat/b.png", "train/cat/a.PNG", "train/ant/0.png", "test/cat/a.png")
WHOLE = (*BOTH_SUBSETS, "test/ant/1.png")


@WRITERS
def test_train_and_test_folders(tmp_path, write):
    with open_source("folder", write(tmp_path, tree(*BOTH_SUBSETS))) as source:
        assert source.class_names == ("ant", "cat")
        assert source.train.ids == ("train/ant/0.png", "train/cat/a.PNG", "train/cat/b.png")
        np.testing.assert_array_equal(source.train.labels, [0, 1, 1])
        assert source.train.labels.dtype == np.int32
        assert source.test is not None
        assert source.test.ids == ("test/cat/a.png",)
        np.testing.assert_array_equal(source.test.labels, [1])
        for red, name in enumerate(BOTH_SUBSETS):
            image = source.read_image(name)
            np.testing.assert_array_equal(image, np.full((3, 4, 3), [red, 0, 0]))


@WRITERS
def test_one_level_of_classes_has_no_test_subset(tmp_path, write):
    files = tree("dog/1.png", "Zebra/1.png", "dog/old/deep/1.png", "éland/1.jpeg")
    with open_source("folder", write(tmp_path, files)) as source:
        assert source.class_names == ("Zebra", "dog", "éland")
        assert source.train.ids == (
            "Zebra/1.png",
            "dog/1.png",
            "dog/old/deep/1.png",
            "éland/1.jpeg",
        )
        assert source.test is None
        assert source.read_image("dog/old/deep/1.png")[0, 0, 0] == 2


def test_folder_and_zip_have_the_same_ids(tmp_path):
    # One accent as one code point and as two: file systems differ.
    files = tree("train/caf\u00e9/1.png", "train/b/1.png")
    apart = {name.replace("\u00e9", "e\u0301"): data for name, data in files.items()}
    packed = {f"top\\{name}".replace("/", "\\"): data for name, data in apart.items()}
    with (
        open_source("folder", write_folder(tmp_path / "f", files)) as folder,
        open_source("folder", write_zip(tmp_path, packed)) as archive,
    ):
        assert folder.train.ids == archive.train.ids
        assert folder.class_names == archive.class_names == ("b", "caf\u00e9")
        assert archive.read_image("train/caf\u00e9/1.png")[0, 0, 0] == 0


def test_a_wrapping_folder_in_a_zip_is_taken_off(tmp_path):
    files = tree(
        *(f"birds/{name}" for name in BOTH_SUBSETS), "README.txt", "__MACOSX/birds/._a.png"
    )
    with open_source("folder", write_zip(tmp_path, files)) as source:
        assert source.train.ids[0] == "train/ant/0.png"
        assert source.test is not None
        assert source.read_image("train/cat/a.PNG")[0, 0, 0] == 1


@WRITERS
def test_train_alone_is_a_subset_not_a_class(tmp_path, write):
    with open_source("folder", write(tmp_path, tree("train/a/1.png", "train/b/1.png"))) as source:
        assert source.class_names == ("a", "b")
        assert source.train.ids == ("train/a/1.png", "train/b/1.png")
        assert source.test is None


@WRITERS
def test_a_class_may_be_called_train(tmp_path, write):
    with open_source("folder", write(tmp_path, tree("train/1.png", "bus/1.png"))) as source:
        assert source.class_names == ("bus", "train")


@WRITERS
@pytest.mark.parametrize(
    "names",
    [
        ("test/a/1.png", "val/a/1.png"),
        ("train/a/1.png", "train/b/1.png", "holdout/a/2.png"),
        ("train/a/1.png", "valid/a/1.png", "other/a/1.png"),
    ],
)
def test_subsets_of_other_names_are_not_taken_for_classes(tmp_path, write, names):
    with pytest.raises(UserError, match=r"look like subsets.*test/<class>"):
        open_source("folder", write(tmp_path, tree(*names)))


@WRITERS
def test_hidden_files_and_junk_are_skipped(tmp_path, write, caplog):
    files = tree(
        *WHOLE,
        ".DS_Store",
        "train/.cache/1.png",
        "train/cat/.hidden.png",
        "train/cat/Thumbs.db",
        "__MACOSX/train/cat/x.png",
    )
    with open_source("folder", write(tmp_path, files)) as source:
        assert len(source.train.ids) == 3
        assert source.class_names == ("ant", "cat")
    assert not caplog.records


@WRITERS
def test_other_files_are_counted_in_one_warning(tmp_path, write, caplog):
    files = tree(*WHOLE, "labels.csv", "train/cat/notes.txt", "train/ant/more.txt")
    with open_source("folder", write(tmp_path, files)) as source:
        assert len(source.train.ids) == 3
    (record,) = caplog.records
    assert "3 files that are not read as images (2 .txt, 1 .csv)" in record.getMessage()


@WRITERS
def test_other_files_beside_a_wrapping_folder_are_told_too(tmp_path, write, caplog):
    files = tree(*(f"data/{name}" for name in WHOLE), "data/train/cat/4.tif", "scan.tif")
    with open_source("folder", write(tmp_path, files)) as source:
        assert len(source.train.ids) == 3
    (record,) = caplog.records
    assert "2 files that are not read as images (2 .tif)" in record.getMessage()
    assert "'data/train/cat/4.tif', 'scan.tif'" in record.getMessage()


@WRITERS
def test_images_outside_class_folders_are_counted(tmp_path, write, caplog):
    files = tree(*WHOLE, "logo.png", "train/loose.png", "more/cat/1.png")
    with open_source("folder", write(tmp_path, files)) as source:
        assert len(source.train.ids) == 3
        assert source.test is not None
    (record,) = caplog.records
    assert "3 images outside" in record.getMessage()


@WRITERS
def test_a_class_without_test_images_is_named(tmp_path, write, caplog):
    open_source("folder", write(tmp_path, tree(*BOTH_SUBSETS))).close()
    (record,) = caplog.records
    assert "test lacks the class 'ant'" in record.getMessage()


@WRITERS
@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((*BOTH_SUBSETS, "test/gnu/1.png"), "class 'gnu', which train lacks"),
        ((*BOTH_SUBSETS, "train/void/"), "no images in the class folder 'train/void'"),
        (("a/1.png", "b/1.png", "docs/1.txt"), "no images in the class folder 'docs'"),
        ((*BOTH_SUBSETS[:3], "test/"), "test holds no class folders"),
        (("train/a/1.png", "train/a/2.png", "test/a/1.png"), "1 class folders.*at least 2"),
        (("1.png", "2.png"), "0 class folders.*no folders, 2 images.*Expected"),
        (("a/1.txt", "b/2.csv"), r"no images found.*'a', 'b'.*1 \.txt.*train/<class>"),
    ],
)
def test_bad_layouts_are_refused(tmp_path, write, names, message):
    with pytest.raises(UserError, match=message):
        open_source("folder", write(tmp_path, tree(*names)))


@pytest.mark.parametrize(
    ("path", "message"), [("", "needs the path"), ("no/such/place", "does not exist.*<class>")]
)
def test_a_missing_path_is_refused(path, message):
    with pytest.raises(UserError, match=message):
        open_source("folder", path)


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"no images found, but no folders"):
        open_source("folder", str(tmp_path))


def test_what_is_neither_folder_nor_zip_is_refused(tmp_path):
    path = tmp_path / "data.zip"
    path.write_bytes(b"no archive")
    with pytest.raises(UserError, match=r"data\.zip: neither a folder nor a whole ZIP"):
        open_source("folder", str(path))


def test_a_truncated_zip_is_refused(tmp_path):
    path = Path(write_zip(tmp_path, tree(*BOTH_SUBSETS)))
    path.write_bytes(path.read_bytes()[:-30])
    with pytest.raises(UserError, match="whole ZIP"):
        open_source("folder", str(path))


def test_a_damaged_member_is_named_when_read(tmp_path):
    path = Path(write_zip(tmp_path, tree(*BOTH_SUBSETS)))
    data = bytearray(path.read_bytes())
    start = data.index(b"train/cat/b.png") + len("train/cat/b.png")
    data[start + 10 : start + 20] = bytes(10)
    path.write_bytes(data)
    with open_source("folder", str(path)) as source:
        with pytest.raises(UserError, match=r"train/cat/b\.png.*cannot be unpacked"):
            source.read_image("train/cat/b.png")
        assert source.read_image("train/cat/a.PNG")[0, 0, 0] == 1


@WRITERS
def test_an_undecodable_image_is_named_when_read(tmp_path, write):
    files = tree(*BOTH_SUBSETS) | {"train/cat/a.PNG": b"<html>"}
    with (
        open_source("folder", write(tmp_path, files)) as source,
        pytest.raises(UserError, match=r"train/cat/a\.PNG: not a readable image"),
    ):
        source.read_image("train/cat/a.PNG")


@pytest.mark.parametrize(
    "name", ["../out.png", "train/cat/../../../x.png", "/etc/x.png", "C:/x.png", "./c:/x.png"]
)
def test_members_that_lead_out_of_the_zip_are_refused(tmp_path, name):
    with pytest.raises(UserError, match=r"absolute name or one with"):
        open_source("folder", write_zip(tmp_path, tree(*BOTH_SUBSETS, name)))


def test_backslashes_do_not_hide_a_way_out(tmp_path):
    with pytest.raises(UserError, match="absolute name"):
        open_source("folder", write_zip(tmp_path, tree(*BOTH_SUBSETS, "train\\..\\..\\x.png")))


def test_encrypted_members_are_refused(tmp_path):
    path = Path(write_zip(tmp_path, tree("a/1.png", "b/1.png")))
    data = bytearray(path.read_bytes())
    # Bit 0 of the general purpose flags in each central directory entry.
    at = data.index(b"PK\x01\x02")
    data[at + 8] |= 1
    path.write_bytes(data)
    with pytest.raises(UserError, match="encrypted"):
        open_source("folder", str(path))


def test_two_members_of_one_name_are_refused(tmp_path):
    files = tree("a/1.png", "b/1.png", "a\\1.png")
    with pytest.raises(UserError, match=r"two files are named 'a/1\.png'"):
        open_source("folder", write_zip(tmp_path, files))


def test_links_are_followed_but_not_in_circles(tmp_path, caplog):
    root = Path(write_folder(tmp_path / "data", tree("a/1.png", "b/1.png")))
    elsewhere = Path(write_folder(tmp_path / "elsewhere", tree("2.png")))
    os.symlink(elsewhere, root / "c")
    os.symlink(root, root / "a" / "up")
    os.symlink(root, root / "again")
    os.symlink(root / "a", elsewhere / "side")
    with open_source("folder", str(root)) as source:
        assert source.class_names == ("a", "b", "c")
        assert source.train.ids == ("a/1.png", "b/1.png", "c/2.png", "c/side/1.png")
    assert any("a folder that contains it" in record.getMessage() for record in caplog.records)


def test_a_zip_is_read_from_several_threads(tmp_path):
    names = [f"{label}/{i}.png" for label in "ab" for i in range(100)]
    with open_source("folder", write_zip(tmp_path, tree(*names))) as source:
        with ThreadPoolExecutor(8) as pool:
            reds = list(pool.map(lambda name: source.read_image(name)[0, 0, 0], names * 5))
        np.testing.assert_array_equal(reds, list(range(200)) * 5)


def test_a_closed_zip_is_not_read(tmp_path):
    source = open_source("folder", write_zip(tmp_path, tree(*BOTH_SUBSETS)))
    source.close()
    with pytest.raises(ValueError, match="closed"):
        source.read_image("train/cat/b.png")


@WRITERS
def test_only_listed_ids_are_read(tmp_path, write):
    with open_source("folder", write(tmp_path, tree(*BOTH_SUBSETS))) as source:
        for name in ("train/cat/c.png", "../secret.png"):
            with pytest.raises(KeyError):
                source.read_image(name)


def test_an_image_that_went_away_is_named(tmp_path):
    with open_source("folder", write_folder(tmp_path, tree(*BOTH_SUBSETS))) as source:
        (tmp_path / "train/cat/b.png").unlink()
        with pytest.raises(UserError, match=r"b\.png: cannot be read"):
            source.read_image("train/cat/b.png")


@WRITERS
def test_the_content_hash_follows_contents_and_order(tmp_path, write):
    def content_hash(root: Path, files: dict[str, bytes], ids: list[str]) -> str:
        with open_source("folder", write(root, files)) as source:
            return source.content_hash(ids)

    ids = ["train/cat/b.png", "train/ant/0.png"]
    (tmp_path / "x").mkdir()
    before = content_hash(tmp_path / "x", tree(*BOTH_SUBSETS), ids)
    with open_source("folder", str(next((tmp_path / "x").glob("data.*"), tmp_path / "x"))) as same:
        assert same.content_hash(ids) == before
        assert same.content_hash(ids[::-1]) != before
        assert same.content_hash(ids[:1]) != before
    changed = tree(*BOTH_SUBSETS) | {"train/ant/0.png": image(200) + b"\0"}
    assert content_hash(tmp_path / "x", changed, ids) != before


def test_digits():
    with open_source("digits", "") as source:
        assert source.class_names == tuple("0123456789")
        assert len(source.train.ids) == 1797
        assert source.train.ids[17] == "digits/00017"
        assert source.test is None
        images = np.stack([source.read_image(name) for name in source.train.ids])
        assert images.shape == (1797, 8, 8, 3)
        assert images.dtype == np.uint8
        assert (images.min(), images.max()) == (0, 255)
        # 17 levels, a sixteenth of 255 apart, each the same in red, green and blue.
        np.testing.assert_array_equal(np.unique(images), np.rint(np.arange(17) * 255 / 16))
        assert np.ptp(images, axis=-1).max() == 0
        assert source.content_hash(source.train.ids[:2]) != source.content_hash(
            source.train.ids[1:3]
        )
        # A zero has a hole, a one has none.
        centre = images[:, 3:5, 3:5, 0].mean((1, 2))
        assert centre[source.train.labels == 0].mean() < centre[source.train.labels == 1].mean() / 4


def test_an_unknown_data_set_is_refused_with_the_list():
    with pytest.raises(UserError, match=r"'digit'.*digits, folder"):
        open_source("digit", "")


def test_a_partition_keeps_its_promises():
    labels = np.array([0, 1])
    subset = LabelledImages(("a", "b"), labels)
    labels[0] = 7
    assert subset.labels.tolist() == [0, 1]
    with pytest.raises(ValueError, match="read-only"):
        subset.labels[0] = 1
    with pytest.raises(ValueError, match="unique"):
        LabelledImages(("a", "a"), np.array([0, 1]))
    with pytest.raises(ValueError, match="shape"):
        LabelledImages(("a", "b"), np.array([0]))


@pytest.mark.parametrize("name", ["caltech101", "cifar100_lt10"])
def test_counts_of_the_shared_sets(name):
    path = SHARED / f"{name}.zip"
    if not path.exists():
        pytest.skip(f"{path.name} is not at hand")
    expected = json.loads((SHARED / f"{name}.counts.json").read_text())
    with open_source("folder", str(path)) as source:
        assert source.test is not None
        for subset, counts in ((source.train, expected["train"]), (source.test, expected["test"])):
            found = np.bincount(subset.labels, minlength=len(source.class_names))
            assert dict(zip(source.class_names, found.tolist(), strict=True)) == counts
        image = source.read_image(source.test.ids[-1])
        assert image.dtype == np.uint8
        assert min(image.shape[:2]) <= 128


def test_folders_may_be_nested_deeper_than_functions(tmp_path):
    root = Path(write_folder(tmp_path / "data", tree("a/1.png", "b/1.png")))
    here = os.getcwd()
    try:
        # One at a time: the whole path may be too long for one call.
        os.chdir(root / "a")
        for _ in range(1200):
            os.mkdir("d")
            os.chdir("d")
        Path("2.png").write_bytes(image(2))
    finally:
        os.chdir(here)
    try:
        with open_source("folder", str(root)) as source:
            assert source.class_names == ("a", "b")
            assert len(source.train.ids) == 3
    finally:
        # shutil.rmtree, with which pytest removes the folder, is recursive.
        subprocess.run(["rm", "-rf", str(root)], check=True)

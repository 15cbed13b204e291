"""Error messages for users' mistakes and damaged files; each case is run.

The table in docs/data.md holds the messages. To write it again:

    WRITE_DOCS=1 python -m pytest tests/data/sources/test_bad_input.py
"""

import html
import io
import os
import re
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from candle_tf.config import Config
from candle_tf.data.images import heif
from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError
from candle_tf.run_folder import open_run_folder
from candle_tf.stages.check_images import check_split
from candle_tf.stages.split import open_data
from tests.data.sources.test_coco import annotations, open_coco
from tests.data.sources.test_registry import (
    image,
    tree,
    write_folder,
    write_old_zip,
    write_tar,
    write_tar_gz,
    write_zip,
)

pytestmark = pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")

DOCS = Path(__file__).parents[3] / "docs" / "data.md"
BEGIN, END = "<!-- bad input: begin -->\n", "<!-- bad input: end -->\n"
GOOD = ("train/ant/1.png", "train/bee/1.png", "test/ant/1.png")

# In cp932 the second byte of 表 and of ソ is a backslash.
OLD_NAMES = ("表/1.png", "ソフト/1.png", "山/1.png")

Case = Callable[[Path], object]
CASES: dict[str, Case] = {}


def case(title: str) -> Callable[[Case], Case]:
    def add(function: Case) -> Case:
        CASES[title] = function
        return function

    return add


def folder(root: Path, *names: str) -> object:
    return open_source("folder", write_folder(root / "images", tree(*names)))


def open_listed_images(root: Path, text: str | bytes, **lists: str) -> object:
    (root / "train.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    for name, content in lists.items():
        (root / f"{name}.txt").write_text(content)
    data = write_folder(root / "images", tree("a/1.png", "b/1.png"))
    given = {name: str(root / f"{name}.txt") for name in lists}
    return open_source("list", data, train_list=str(root / "train.txt"), **given)


def run_on(root: Path, files: dict[str, bytes], **settings: object) -> object:
    data = write_folder(root / "images", files)
    config = Config(dataset="folder", data_dir=data, profile="natural",
                    run_dir=str(root / "run"), **settings)  # fmt: skip
    with open_data(config) as source:
        return check_split(config, open_run_folder(config), source)


def files_with(data: dict[str, bytes]) -> dict[str, bytes]:
    names = [f"{subset}/{label}/{i}.png" for subset in ("train", "test") for label in ("ant", "bee")
             for i in range(5)]  # fmt: skip
    return tree(*names) | data


case("no such folder")(lambda root: open_source("folder", str(root / "images")))
case("a name that no file system takes")(lambda _: open_source("folder", "é" * 200))
case("an empty folder")(lambda root: open_source("folder", str(root)))
case("no class folders")(lambda root: folder(root, "1.png", "2.png"))
case("one class")(lambda root: folder(root, "train/ant/1.png", "test/ant/2.png"))
case("an empty class folder")(lambda root: folder(root, *GOOD, "train/void/"))
case("a class that test has and train lacks")(lambda root: folder(root, *GOOD, "test/gnu/1.png"))
case("a class that train has in another case")(lambda root: folder(root, *GOOD, "test/Bee/1.png"))
case("a test folder without class folders")(
    lambda root: folder(root, *GOOD[:2], "test/1.png", "test/2.png")
)
case("a class folder without a name that can be seen")(
    lambda root: folder(root, *GOOD, "train/\u200f /1.png")
)
case("subsets without a training subset")(
    lambda root: folder(root, "Test/a/1.png", "Valid/a/1.png")
)
case("subsets without class folders")(
    lambda root: folder(root, "train/cat.0.png", "train/dog.0.png", "test/0.png")
)
case("images and masks")(lambda root: folder(root, "images/1.png", "masks/1.png"))
case("subsets within class folders")(
    lambda root: folder(root, "ant/train/1.png", "ant/test/1.png", "bee/train/2.png")
)
case("copies of the data beside each other")(
    lambda root: folder(root, *(f"{top}/{label}/1.png" for top in ("color", "grayscale")
                                for label in ("rust", "scab")))
)  # fmt: skip
case("a class name with a line break")(lambda root: folder(root, "sea\nlion/1.png", "seal/1.png"))
case("two training subsets")(
    lambda root: folder(root, "train/a/1.png", "train2017/b/1.png", "test/a/1.png")
)
case("two validation subsets")(lambda root: folder(root, *GOOD, "val/ant/1.png", "valid/ant/1.png"))


@case("a file that is no archive")
def _(root: Path) -> object:
    (root / "images.zip").write_bytes(b"<html>not found</html>")
    return open_source("folder", str(root / "images.zip"))


@case("a ZIP cut short")
def _(root: Path) -> object:
    path = Path(write_zip(root, tree(*GOOD)))
    path.write_bytes(path.read_bytes()[:-30])
    return open_source("folder", str(path))


@case("a TAR cut short")
def _(root: Path) -> object:
    path = Path(write_tar(root, tree(*GOOD)))
    path.write_bytes(path.read_bytes()[: 2 * 512 + 1024])
    return open_source("folder", str(path))


@case("a TAR with a damaged header")
def _(root: Path) -> object:
    path = Path(write_tar(root, tree(*GOOD)))
    data = bytearray(path.read_bytes())
    data[1024:1034] = b"\xff" * 10
    path.write_bytes(data)
    return open_source("folder", str(path))


@case("a compressed TAR cut short")
def _(root: Path) -> object:
    path = Path(write_tar_gz(root, tree(*GOOD)))
    path.write_bytes(path.read_bytes()[:-40])
    return open_source("folder", str(path))


@case("a compressed TAR that is a bomb")
def _(root: Path) -> object:
    return open_source("folder", write_tar_gz(root, {"train/ant/1.png": bytes(2**25)}))


@case("a member of a ZIP that is a bomb")
def _(root: Path) -> object:
    files = tree(*GOOD) | {"train/ant/1.png": bytes(2**25)}
    with open_source("folder", write_zip(root, files)) as source:
        return source.read_image("train/ant/1.png")


@case("a member of a ZIP that is larger than the ZIP states")
def _(root: Path) -> object:
    files = {"train/ant/1.png": bytes(2**20)} | tree(*GOOD[1:])
    path = root / "data.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_BZIP2) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    data = bytearray(path.read_bytes())
    size = data.index(b"PK\x01\x02") + 24
    data[size : size + 4] = (100).to_bytes(4, "little")
    path.write_bytes(data)
    with open_source("folder", str(path)) as source:
        return source.read_image("train/ant/1.png")


@case("a member named ../x.png in a ZIP")
def _(root: Path) -> object:
    return open_source("folder", write_zip(root, tree(*GOOD, "../x.png")))


@case("a member named /etc/x.png in a TAR")
def _(root: Path) -> object:
    return open_source("folder", write_tar(root, tree(*GOOD, "/etc/x.png")))


@case("two members of one name")
def _(root: Path) -> object:
    path = root / "images.tar"
    with tarfile.open(path, "w") as archive:
        for data in (image(1), image(2)):
            member = tarfile.TarInfo("train/ant/1.png")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return open_source("folder", str(path))


@case("a ZIP with names in an unknown encoding")
def _(root: Path) -> object:
    return open_source("folder", write_old_zip(root, OLD_NAMES, "cp932"))


@case("a ZIP with names in another encoding than --archive_encoding")
def _(root: Path) -> object:
    path = write_old_zip(root, OLD_NAMES, "cp932")
    return open_source("folder", path, archive_encoding="ascii")


@case("an encrypted ZIP")
def _(root: Path) -> object:
    path = Path(write_zip(root, tree(*GOOD)))
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return open_source("folder", str(path))


@case("images that cannot be read (--on_bad_image=stop)")
def _(root: Path) -> object:
    huge = io.BytesIO()
    Image.new("1", (10_000, 10_000)).save(huge, "PNG")
    cut = image(1)[:-30]
    bad = {"train/ant/0.png": b"<html>", "train/bee/1.png": cut, "test/ant/2.png": huge.getvalue()}
    return run_on(root, files_with(bad))


@case("a class without readable images (--on_bad_image=skip)")
def _(root: Path) -> object:
    bad = {f"train/ant/{i}.png": b"" for i in range(5)}
    return run_on(root, files_with(bad), on_bad_image="skip")


@case("HEIC images where no decoder is installed")
def _(root: Path) -> object:
    data = write_folder(root / "images", tree("train/ant/1.png", "train/bee/1.png"))
    path = root / "images" / "train" / "ant" / "2.heic"
    path.write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic")
    with pytest.MonkeyPatch.context() as patch, open_source("folder", data) as source:
        patch.setattr(heif, "find_decoders", lambda: {"HEIC": "", "AVIF": ""})
        return source.read_image(next(i for i in source.train.ids if i.endswith(".heic")))


@case("a folder with a name that is not UTF-8")
def _(root: Path) -> object:
    data = write_folder(root / "images", tree(*GOOD))
    with open(os.path.join(os.fsencode(data), b"train/ant/caf\xe9.png"), "wb") as file:
        file.write(image(1))
    return open_source("folder", data)


def open_table(root: Path, text: str) -> object:
    (root / "train.csv").write_text(text)
    data = write_folder(root / "images", tree("a/1.png", "b/1.png"))
    return open_source("list", data, train_list=str(root / "train.csv"))


case("a table with more cells than columns")(
    lambda root: open_table(root, "path,label\na/1.png,grass, tall\nb/1.png,moss\n")
)
case("a table with unknown names of columns")(
    lambda root: open_table(root, "id,breed\na/1.png,pug\nb/1.png,hound\n")
)
case("a table with paths without extension")(
    lambda root: open_table(root, "path,label\na/1,pug\nb/1,hound\n")
)
case("a table with a line break in a label")(
    lambda root: open_table(root, 'path,label\na/1.png,"sea\nlion"\nb/1.png,seal\n')
)
case("a table with a missing class number")(
    lambda root: open_table(root, "path,label\na/1.png,1.0\nb/1.png,nan\n")
)
case("a table with an unknown subset")(
    lambda root: open_table(root, "path,label,split\na/1.png,ant,train\nb/1.png,bee,extra\n")
)
case("a table with the columns in the other order")(
    lambda root: open_table(root, "ant,a/1.png\nbee,b/1.png\n")
)
case("a list with URLs")(
    lambda root: open_listed_images(root, "https://x.org/a/1.png 0\nhttps://x.org/b/1.png 1\n")
)
case("a list of paths in another folder")(
    lambda root: open_listed_images(root, "images/a/1.png 0\nimages/b/1.png 1\n")
)
case("a list of images that the folder lacks")(
    lambda root: open_listed_images(root, "z/1.png 0\nz/2.png 1\n")
)
case("a list with extensions in another case")(
    lambda root: open_listed_images(root, "a/1.PNG 0\nb/1.PNG 1\n")
)
case("a list with labels from 1")(lambda root: open_listed_images(root, "a/1.png 1\nb/1.png 2\n"))
case("a list with the label first")(
    lambda root: open_listed_images(root, "ant a/1.png\nbee b/1.png\n")
)
case("a list with commas")(lambda root: open_listed_images(root, "a/1.png,ant\nb/1.png,bee\n"))
case("a list that is a spreadsheet")(lambda root: open_listed_images(root, b"PK\x03\x04\xff\xfe"))
case("annotations of COCO with several categories in an image")(
    lambda root: open_coco(root, annotations() | {"annotations": [
        {"image_id": 7, "category_id": 2}, {"image_id": 7, "category_id": 5}]})
)  # fmt: skip
case("annotations of COCO with two images of one id")(
    lambda root: open_coco(root, annotations() | {"images": [
        {"id": 7, "file_name": "Aves/2/0.png"}, {"id": 7, "file_name": "Aves/2/3.png"}]})
)  # fmt: skip
case("annotations of COCO without categories")(
    lambda root: open_coco(root, {"images": [], "annotations": []})
)
case("annotations of COCO as a list")(lambda root: open_table(root, '{"images": []}'))
case("a list with a negative label")(
    lambda root: open_listed_images(root, "a/1.png 0\nb/1.png -1\n")
)
case("a list with a label beyond --class_names")(
    lambda root: open_listed_images(root, "a/1.png 0\nb/1.png 2\n", class_names="ant\nbee\n")
)
case("a list with a class that is not in --class_names")(
    lambda root: open_listed_images(root, "a/1.png ant\nb/1.png bea\n", class_names="ant\nbee\n")
)
case("a list with a gap in the class numbers")(
    lambda root: open_listed_images(root, "a/1.png 0\nb/1.png 2\n")
)
case("a list that names an image twice")(
    lambda root: open_listed_images(root, "a/1.png 0\na/1.png 1\n")
)
case("an image in the training and in the test list")(
    lambda root: open_listed_images(root, "a/1.png 0\nb/1.png 1\n", test_list="b/1.png 1\n")
)
case("a list with a path that leads out")(
    lambda root: open_listed_images(root, "../a.png 0\nb/1.png 1\n")
)
case("a list without labels")(lambda root: open_listed_images(root, "a/1.png\nb/1.png\n"))
case("an empty list")(lambda root: open_listed_images(root, "\n"))


@case("a list with an image that the archive lacks")
def _(root: Path) -> object:
    (root / "train.txt").write_text("ant/1.png 0\nbee/9.png 1\n")
    data = write_zip(root, tree("ant/1.png", "bee/1.png"))
    return open_source("list", data, train_list=str(root / "train.txt"))


case("fashion_mnist without its files")(lambda root: open_source("fashion_mnist", str(root)))
case("a TFDS data set that is not prepared")(lambda root: open_source("tfds:dtd", str(root)))
case("a TFDS data set without class labels")(lambda root: open_source("tfds:glue/cola", str(root)))
case("an unknown data set")(lambda root: open_source("digit", str(root)))  # fmt: skip


def message_of(title: str, root: Path) -> str:
    """The message, with the folder of this test left out."""
    with pytest.raises(UserError) as caught:
        CASES[title](root)
    return str(caught.value).replace(f"{root}/", "").replace(str(root), "data")


@pytest.mark.parametrize("title", CASES)
def test_bad_input_is_reported_with_its_place_and_a_remedy(title, tmp_path):
    message = message_of(title, tmp_path)
    assert str(tmp_path) not in message
    assert message.endswith((".", ":"))
    # Nothing was written beside what the test wrote, and nothing outside of it.
    assert not (tmp_path.parent / "x.png").exists()


def test_the_table_in_the_docs_is_made_of_these_messages(tmp_path):
    rows = ["| input | message |", "|---|---|"]
    for number, title in enumerate(CASES):
        root = tmp_path / str(number)
        root.mkdir()
        shown = html.escape(message_of(title, root), quote=False).replace("|", "\\|")
        shown = re.sub(r" *\n *", "<br>", shown)
        rows.append(f"| {title} | {shown} |")
    table = "\n".join(rows) + "\n"
    text = DOCS.read_text()
    before, _, rest = text.partition(BEGIN)
    written, _, after = rest.partition(END)
    if os.environ.get("WRITE_DOCS"):
        DOCS.write_text(before + BEGIN + table + END + after)
        written = table
    assert written == table, "the messages changed: see the head of this file"


def test_links_in_archives_are_skipped(tmp_path, caplog):
    path = tmp_path / "images.tar"
    with tarfile.open(path, "w") as archive:
        for name, data in tree(*GOOD).items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (("train/ant/2.png", "/etc/passwd"), ("train/up", "../..")):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
        member = tarfile.TarInfo("train/ant/3.png")
        member.type, member.linkname = tarfile.LNKTYPE, "train/ant/1.png"
        archive.addfile(member)
    with open_source("folder", str(path)) as source:
        assert source.train.ids == ("train/ant/1.png", "train/bee/1.png")
    assert "3 links or special files skipped" in caplog.text
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, data in tree(*GOOD).items():
            archive.writestr(name, data)
        link = zipfile.ZipInfo("train/ant/2.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    with open_source("folder", str(tmp_path / "images.zip")) as source:
        assert source.train.ids == ("train/ant/1.png", "train/bee/1.png")


def test_links_to_nothing_and_to_themselves_are_images_that_cannot_be_read(tmp_path):
    root = Path(write_folder(tmp_path / "images", tree(*GOOD)))
    (root / "train/ant/gone.png").symlink_to(tmp_path / "nowhere.png")
    (root / "train/ant/self.png").symlink_to(root / "train/ant/self.png")
    with open_source("folder", str(root)) as source:
        assert "train/ant/gone.png" in source.train.ids
        for name in ("gone", "self"):
            with pytest.raises(UserError, match=rf"{name}\.png: cannot be read"):
                source.read_image(f"train/ant/{name}.png")


@pytest.mark.parametrize("write", [write_folder, write_zip, write_tar])
def test_odd_names_are_the_same_everywhere(tmp_path, write):
    names = ("train/日本 語/a#b?.png", "train/ſ\u0301/😀 %20.png", "test/日本 語/'\"; rm.png")
    with open_source("folder", write(tmp_path, tree(*names))) as source:
        assert set(source.class_names) == {"日本 語", "ſ\u0301"}
        for image_id in (*source.train.ids, *source.test.ids):
            assert source.read_image(image_id).shape == (3, 4, 3)


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_every_kind_of_tar_is_read_and_leaves_nothing_behind(tmp_path, mode):
    path = write_tar(tmp_path, tree(*GOOD), mode)
    scratch = tmp_path / "scratch"
    with open_source("folder", path, scratch=str(scratch)) as source:
        assert source.read_image("train/bee/1.png")[0, 0, 0] == 1
        assert list(scratch.glob("**/*")) == []
        before = source.content_hash(source.train.ids)
    with open_source("folder", path, scratch=str(scratch)) as source:
        assert source.content_hash(source.train.ids) == before
        source.close()
        with pytest.raises(ValueError, match="closed"):
            source.read_image("train/bee/1.png")


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_a_validation_folder_is_a_subset_or_the_test_subset(tmp_path, name):
    three = (*GOOD, "test/bee/1.png", f"{name}/ant/1.png", f"{name}/bee/1.png")
    with open_source("folder", write_zip(tmp_path, tree(*three))) as source:
        assert source.validation.ids == (f"{name}/ant/1.png", f"{name}/bee/1.png")
        assert source.test.ids == ("test/ant/1.png", "test/bee/1.png")
    two = (*GOOD[:2], f"{name}/ant/1.png", f"{name}/bee/1.png")
    with open_source("folder", write_zip(tmp_path, tree(*two))) as source:
        assert source.validation is None
        assert source.test.ids == (f"{name}/ant/1.png", f"{name}/bee/1.png")

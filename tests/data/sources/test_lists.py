import numpy as np
import pytest

from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError
from tests.data.sources.test_registry import tree, write_folder, write_tar, write_zip

WRITERS = pytest.mark.parametrize("write", [write_folder, write_zip, write_tar])
IMAGES = ("cats/0.png", "cats/1.png", "dogs/café 2.png", "dogs/3.png")


@pytest.fixture
def images(tmp_path):
    return write_folder(tmp_path / "images", tree(*IMAGES))


def write_list(folder, text, name="train.txt"):
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


SPACES = "cats/1.png 1\n./dogs//café 2.png 0\n\ncats/0.png\t1\n"


@WRITERS
def test_lines_of_path_and_number(tmp_path, write):
    (tmp_path / "data").mkdir()
    data = write(tmp_path / "data", tree(*IMAGES))
    lists = {
        "train_list": write_list(tmp_path, SPACES),
        "test_list": write_list(tmp_path, "dogs/3.png 0\n", "test.txt"),
    }
    with open_source("list", data, **lists) as source:
        assert source.train.ids == ("cats/1.png", "dogs/café 2.png", "cats/0.png")
        assert source.train.labels.tolist() == [1, 0, 1]
        assert source.class_names == ("0", "1")
        assert source.test is not None
        assert source.test.ids == ("dogs/3.png",)
        assert source.validation is None
        reds = [source.read_image(i)[0, 0, 0] for i in (*source.train.ids, *source.test.ids)]
        assert reds == [1, 2, 0, 3]
        assert source.content_hash(source.train.ids) != source.content_hash(source.test.ids)
        with pytest.raises(KeyError):
            source.read_image("../train.txt")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", "cats/1.png,cat\ndogs/3.png,dog\ncats/0.png,cat\n"),
        ("t.csv", '\ufefflabel,note,path\ncat,x,cats/1.png\ndog,x,"dogs/3.png"\ncat,,cats/0.png'),
        ("t.tsv", "Image\tCategory\r\ncats/1.png\tcat\r\ndogs/3.png\tdog\r\ncats/0.png\tcat\r\n"),
        ("t.lst", "cats/1.png cat\ndogs/3.png dog\ncats\\0.png cat"),
    ],
)  # fmt: skip
def test_tables_of_path_and_name(tmp_path, images, name, text):
    with open_source("list", images, train_list=write_list(tmp_path, text, name)) as source:
        assert source.train.ids == ("cats/1.png", "dogs/3.png", "cats/0.png")
        assert source.class_names == ("cat", "dog")
        assert source.train.labels.tolist() == [0, 1, 0]
        assert source.test is None


def test_class_names_give_the_order_and_the_names(tmp_path, images):
    names = write_list(tmp_path, "wolf\ncat\n", "names.txt")
    by_number = write_list(tmp_path, "cats/1.png 1\ndogs/3.png 0\n")
    with open_source("list", images, train_list=by_number, class_names=names) as source:
        assert source.class_names == ("wolf", "cat")
        assert source.train.labels.tolist() == [1, 0]
    by_name = write_list(tmp_path, "cats/1.png cat\ndogs/3.png wolf\n")
    with open_source("list", images, train_list=by_name, class_names=names) as source:
        assert source.train.labels.tolist() == [1, 0]


KNOWN = ("wolf", "cat", "dog")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("path,label\ncats/0.png,0\ndogs/3.png,2\n", ["wolf", "dog"]),
        ("path,label\ncats/0.png,0\n", ["wolf"]),
        ("path,label\ncats/0.png,cat\ndogs/3.png,wolf\n", ["cat", "wolf"]),
        ("path,label\ncats/0.png,dog\n", ["dog"]),
    ],
)
def test_images_that_are_measured_need_not_have_all_classes(
    tmp_path, images, text, expected, caplog
):
    test_list = write_list(tmp_path, text, "new.csv")
    with open_source("list", images, known_classes=KNOWN, train_list=test_list) as source:
        assert [source.class_names[label] for label in source.train.labels] == expected
    assert not caplog.records


def test_measured_labels_that_may_begin_at_1_are_told(tmp_path, images, caplog):
    first = write_list(tmp_path, "cats/0.png 2\n", "first.txt")
    second = write_list(tmp_path, "dogs/3.png 1\n", "second.txt")
    lists = {"train_list": first, "test_list": second}
    with open_source("list", images, known_classes=KNOWN, **lists) as source:
        assert (source.train.labels.tolist(), source.test.labels.tolist()) == ([2], [1])
    told = "no label is 0, and label 1 is taken for the class 'cat'; if labels begin at 1, subtract"
    assert told in caplog.text
    caplog.clear()
    names = write_list(tmp_path, "\n".join(KNOWN), "names.txt")
    open_source("list", images, known_classes=KNOWN, class_names=names, **lists).close()
    open_source("list", images, known_classes=("0", "1", "2"), **lists).close()
    by_name = write_list(tmp_path, "cats/0.png 10\n")
    open_source("list", images, known_classes=("1", "10"), train_list=by_name).close()
    write_list(tmp_path, "dogs/3.png 0\n", "second.txt")
    open_source("list", images, known_classes=KNOWN, **lists).close()
    assert not caplog.records


@pytest.mark.parametrize("subset", ["test", "val"])
def test_images_that_are_measured_need_no_training_subset(tmp_path, images, subset):
    text = f"path,label,split\ncats/0.png,1,{subset}\ndogs/3.png,2,{subset}\n"
    table = write_list(tmp_path, text, "new.csv")
    for data in (images, write_zip(tmp_path, tree(*IMAGES))):
        with open_source("list", data, known_classes=KNOWN, train_list=table) as source:
            assert source.train.ids == ()
            assert source.test.ids == ("cats/0.png", "dogs/3.png")
            assert source.test.labels.tolist() == [1, 2]
            assert source.class_names == KNOWN
    with pytest.raises(UserError, match="names no training images"):
        open_source("list", images, train_list=table)


def test_of_training_and_validation_images_the_validation_images_are_measured(tmp_path, images):
    text = "path,label,split\ncats/0.png,0,train\ncats/1.png,1,train\ndogs/3.png,2,val\n"
    lists = {
        "train_list": write_list(tmp_path, "cats/0.png 0\ncats/1.png 1\n"),
        "validation_list": write_list(tmp_path, "dogs/3.png 2\n", "val.txt"),
    }
    for given in ({"train_list": write_list(tmp_path, text, "all.csv")}, lists):
        with open_source("list", images, known_classes=KNOWN, **given) as source:
            assert source.test.ids == ("dogs/3.png",)
            assert source.test.labels.tolist() == [2]
            assert source.train.ids == ("cats/0.png", "cats/1.png")
            assert source.validation is None


@pytest.mark.parametrize(
    ("known", "labels", "expected"),
    [
        (("1", "2", "3"), "13", ["1", "3"]),  # 3 is no index
        (("1", "2", "3"), "02", ["1", "3"]),  # 0 is no name
        (("0", "1", "2"), "12", ["1", "2"]),  # the same either way
        (("5", "1", "7"), "11", ["1", "1"]),
    ],
)
def test_whole_numbers_may_be_names_of_classes_that_are_known(
    tmp_path, images, known, labels, expected
):
    table = write_list(tmp_path, "cats/0.png {}\ndogs/3.png {}\n".format(*labels))
    with open_source("list", images, known_classes=known, train_list=table) as source:
        assert [source.class_names[label] for label in source.train.labels] == expected


@pytest.mark.parametrize(
    ("known", "labels", "message"),
    [
        (("1", "2", "3"), "12", "the label '1' is the name of a class .* of its class '2'. If"),
        (KNOWN, "13", r"line 2: the label '3' is not from 0 to 2\. Correct .* subtract 1"),
        (KNOWN, ("1", "nan"), "line 2: the label 'nan' is no whole number"),
    ],
)
def test_labels_that_may_be_wrong_are_not_measured(tmp_path, images, known, labels, message):
    table = write_list(tmp_path, "cats/0.png {}\ndogs/3.png {}\n".format(*labels))
    with pytest.raises(UserError, match=message):
        open_source("list", images, known_classes=known, train_list=table)


LISTED = "cats/0.png {}\ndogs/3.png {}\ncats/1.png {}\n"


@pytest.mark.parametrize(
    ("names", "labels", "expected"),
    [
        (("10", "2", "1"), ("1", "2", "10"), [2, 1, 0]),  # 10 is no index
        (("0", "1", "2"), ("0", "1", "2"), [0, 1, 2]),  # the same either way
        (("2", "1", "5"), ("0", "1", "2"), [0, 1, 2]),  # 0 is no name
    ],
)
def test_whole_numbers_may_be_names_of_the_given_classes(tmp_path, images, names, labels, expected):
    lists = {
        "train_list": write_list(tmp_path, LISTED.format(*labels)),
        "class_names": write_list(tmp_path, "\n".join(names), "names.txt"),
    }
    for known in ((), names):
        with open_source("list", images, known_classes=known, **lists) as source:
            assert source.class_names == names
            assert source.train.labels.tolist() == expected


def test_whole_numbers_that_would_be_other_classes_as_names_are_refused(tmp_path, images):
    lists = {
        "train_list": write_list(tmp_path, LISTED.format("0", "1", "2")),
        "class_names": write_list(tmp_path, "0\n2\n1\n", "names.txt"),
    }
    message = "label '1' is the name of a class in --class_names, and the index of its class '2'"
    for known in ((), ("0", "2", "1")):
        with pytest.raises(UserError, match=message):
            open_source("list", images, known_classes=known, **lists)


def test_class_names_are_those_of_the_indices_of_measured_images_too(tmp_path, images):
    lists = {
        "train_list": write_list(tmp_path, "cats/0.png 1\n"),
        "class_names": write_list(tmp_path, "2\n1\n3\n", "names.txt"),
    }
    with open_source("list", images, known_classes=("1", "2", "3"), **lists) as source:
        assert source.class_names[source.train.labels[0]] == "1"


def test_a_validation_list_is_a_subset_of_its_own(tmp_path, images, caplog):
    lists = {
        "train_list": write_list(tmp_path, "cats/1.png 1\ndogs/3.png 0\n"),
        "validation_list": write_list(tmp_path, "cats/0.png 1\n", "val.txt"),
    }
    with open_source("list", images, **lists) as source:
        assert source.test is None
        assert source.validation is not None
        assert source.validation.ids == ("cats/0.png",)
        np.testing.assert_array_equal(source.validation.labels, [1])
    assert "val.txt lacks the class '0'" in caplog.text


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("cats/0.png 0\ncats/1.png -1\n", "train.txt, line 2: the label '-1' is not from 0 to 0"),
        ("cats/0.png 0\ndogs/3.png 9999999999999\n", "line 2: the label '9999999999999' is not"),
        ("cats/0.png 0\ndogs/3.png 2\n", "no training images of the class '1'"),
        ("cats/0.png 0\n\ncats/0.png 1\n", "line 3: 'cats/0.png' is already in line 1"),
        ("cats/0.png 0\n../secret.png 1\n", "line 2: the path '../secret.png' is absolute or has"),
        ("/etc/passwd.png 0\n", "line 1: the path '/etc/passwd.png' is absolute"),
        ("cats\\..\\..\\x.png 0\n", r"absolute or has '..'"),
        ("C:/x.png 0\n", "absolute"),
        ("c:\\cats\\x.png 0\n", "absolute"),
        ("./C:/x.png 0\n", "absolute"),
        ("~/x.png 0\n", "line 1: the path '~/x.png' begins with a home folder. Write it relative"),
        ("~anna/x.png 0\n", "the path '~anna/x.png' begins with a home folder"),
        ("cats/0.png 0\ncats/1.png\n", "line 2: no label. Expected, in each line, <path> <label>"),
        ("", "the list holds no images"),
        ("cats/0.png 0\ncats/1.png 0\n", "1 class .'0'. where at least 2 are needed"),
        ("a\0b 0\n", "line 1: not a line of text"),
    ],
)
def test_a_bad_line_is_named(tmp_path, images, text, message):
    with pytest.raises(UserError, match=message):
        open_source("list", images, train_list=write_list(tmp_path, text))


@pytest.mark.parametrize("write", [write_folder, write_zip])
@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("~c.png", "~c.png"),
        ("a:b.png", "a:b.png"),
        ("notes:/1.png", "notes:/1.png"),
        ("cats/~1/2.png", "cats/~1/2.png"),
        ("./~old/1.png", "~old/1.png"),
    ],
)
def test_tildes_and_colons_are_characters_of_names(tmp_path, write, path, name):
    text = f"{path} ant\ndogs/0.png bee\n"
    data = write(tmp_path, tree("dogs/0.png", name))
    with open_source("list", data, train_list=write_list(tmp_path, text)) as source:
        assert source.train.ids == (name, "dogs/0.png")
        assert source.read_image(name)[0, 0, 0] == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b,c\nd,e,f\n", "line 1: 3 columns where 2 are expected, and no names of columns"),
        ("path,label\ncats/0.png\n", "line 2: only 1 columns"),
        ("path,image,label\nx,y,z\n", "'image', 'label', 'path' do not tell one for paths"),
        ("cats/0.png,\n", "line 1: no label"),
        ('"cats/0.png,1\n', "not a readable table"),
    ],
)
def test_a_bad_table_is_refused(tmp_path, images, text, message):
    with pytest.raises(UserError, match=message):
        open_source("list", images, train_list=write_list(tmp_path, text, "t.csv"))


def test_labels_beyond_the_class_names_are_refused(tmp_path, images):
    names = write_list(tmp_path, "cat\ndog\n", "names.txt")
    train = write_list(tmp_path, "cats/0.png 0\ndogs/3.png 2\n")
    with pytest.raises(UserError, match=r"train\.txt, line 2: the label '2' is not from 0 to 1"):
        open_source("list", images, train_list=train, class_names=names)
    train = write_list(tmp_path, "cats/0.png cat\ndogs/3.png dgo\n")
    with pytest.raises(UserError, match=r"line 2: the label 'dgo' is not among 'cat', 'dog'"):
        open_source("list", images, train_list=train, class_names=names)
    twice = write_list(tmp_path, "cat\ndog\ncat\n", "twice.txt")
    with pytest.raises(UserError, match=r"twice\.txt, line 3: 'cat' is already in line 1"):
        open_source("list", images, train_list=train, class_names=twice)


def test_an_image_in_two_lists_is_refused(tmp_path, images):
    train = write_list(tmp_path, "cats/0.png 0\ndogs/3.png 1\n")
    test = write_list(tmp_path, "./dogs/3.png 1\n", "test.txt")
    with pytest.raises(UserError, match=r"train\.txt, line 2: 'dogs/3\.png' is also in another"):
        open_source("list", images, train_list=train, test_list=test)


def test_what_is_not_there_is_named(tmp_path, images):
    train = write_list(tmp_path, "cats/0.png 0\ngone/9.png 1\n")
    with pytest.raises(UserError, match="needs --train_list"):
        open_source("list", images)
    with pytest.raises(UserError, match="needs --data_dir"):
        open_source("list", "", train_list=train)
    with pytest.raises(UserError, match=r"no\.txt: the list cannot be read"):
        open_source("list", images, train_list=str(tmp_path / "no.txt"))
    with pytest.raises(UserError, match="nowhere does not exist"):
        open_source("list", str(tmp_path / "nowhere"), train_list=train)
    packed = write_zip(tmp_path, tree(*IMAGES))
    with pytest.raises(UserError, match=r"train\.txt, line 2: .*data\.zip has no 'gone/9\.png'"):
        open_source("list", packed, train_list=train)
    with open_source("list", images, train_list=train) as source:
        assert source.read_image("cats/0.png").shape == (3, 4, 3)
        with pytest.raises(UserError, match=r"gone/9\.png: cannot be read"):
            source.read_image("gone/9.png")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9.png 0\n")
    with pytest.raises(UserError, match="not a text file in UTF-8"):
        open_source("list", images, train_list=str(tmp_path / "latin.txt"))


def test_a_split_column_gives_the_subsets(tmp_path, images):
    text = "path,label,Split\ncats/0.png,cat,train\ndogs/3.png,dog,Training\ncats/1.png,cat,TEST\n"
    table = write_list(tmp_path, text + "dogs/café 2.png,dog,valid\n", "t.csv")
    with open_source("list", images, train_list=table) as source:
        assert source.train.ids == ("cats/0.png", "dogs/3.png")
        assert source.test.ids == ("cats/1.png",)
        assert source.validation.ids == ("dogs/café 2.png",)
        assert source.validation.labels.tolist() == [1]
    test = write_list(tmp_path, "dogs/café 2.png dog\n", "test.txt")
    with pytest.raises(UserError, match=r"names test, but --test_list=.* is given too"):
        open_source("list", images, train_list=table, test_list=test)
    unknown = write_list(tmp_path, text + "dogs/café 2.png,dog,extra\n", "u.csv")
    with pytest.raises(UserError, match=r"u\.csv, line 5: the subset 'extra' is not known"):
        open_source("list", images, train_list=unknown)


@pytest.mark.parametrize("form", ["0", "0.0", "0."])
def test_whole_floats_are_class_indices_in_the_order_of_numbers(tmp_path, form):
    names = [f"{i}.png" for i in range(12)]
    data = write_folder(tmp_path / "images", tree(*names))
    text = "path,label\n" + "".join(f"{i}.png,{i}{form[1:]}\n" for i in reversed(range(12)))
    with open_source("list", data, train_list=write_list(tmp_path, text, "t.csv")) as source:
        assert source.class_names == tuple(map(str, range(12)))
        assert source.train.labels.tolist() == list(reversed(range(12)))


def test_numbers_among_names_come_first_in_their_order(tmp_path, caplog):
    names = [f"{i}.png" for i in range(4)]
    data = write_folder(tmp_path / "images", tree(*names))
    train = write_list(tmp_path, "0.png 10\n1.png 9\n2.png a\n3.png Z\n")
    with open_source("list", data, train_list=train) as source:
        assert source.class_names == ("9", "10", "Z", "a")
    assert "2 of the different labels are whole numbers, but not 'Z', 'a'" in caplog.text


@pytest.mark.parametrize("label", ["nan", "1.5", "NULL"])
def test_a_missing_number_is_refused(tmp_path, images, label):
    train = write_list(tmp_path, f"cats/0.png 0\ncats/1.png {label}\ndogs/3.png 1.0\n")
    with pytest.raises(UserError, match=f"line 2: the label '{label}' is no whole number"):
        open_source("list", images, train_list=train)


def test_a_number_of_5000_digits_is_a_label_out_of_range(tmp_path, images):
    train = write_list(tmp_path, f"cats/0.png 0\ndogs/3.png {'1' * 5000}\n")
    with pytest.raises(UserError, match=r"line 2: the label '1+' is not from 0 to"):
        open_source("list", images, train_list=train)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("t.csv", "path,label\ncats/0.png,grass, tall\n", "line 2: 3 cells where there are 2 col"),
        ("t.csv", "cats/0.png,a\ncats/1.png,b, c\n", "line 2: 3 cells where there are 2 columns"),
        ("t.csv", "id,breed\ncats/0.png,pug\n", "line 1: 'id', 'breed' look like names of col"),
        ("t.txt", "id breed\ncats/0.png pug\n", "line 1: 'id', 'breed' look like names of columns"),
        ("t.csv", "id,breed\ncats/0,pug\ncats/1,x\n", "line 1: 'id', 'breed' look like names of"),
        ("t.csv", 'path,label\ncats/0.png,"sea\nlion"\n', r"'sea.nlion' has a line break"),
        (
            "t.csv",
            "path,label\ncats/0,a\ndogs/3,b\n",
            r"line 2: .* has no 'cats/0', but 'cats/0.png",
        ),
        ("t.json", '{"images": []}', "JSON, not a list. Annotations of COCO"),
        ("t.csv", "path,label,split,subset\na,b,c,d\n", "'split', 'subset' all name subsets"),
    ],
)
def test_lists_that_would_be_misread_are_refused(tmp_path, images, name, text, message):
    with pytest.raises(UserError, match=message):
        open_source("list", images, train_list=write_list(tmp_path, text, name))


def test_ids_without_extension_are_told_of_an_archive_too(tmp_path):
    train = write_list(tmp_path, "cats/0 a\ndogs/3 b\n")
    with pytest.raises(UserError, match=r"has no 'cats/0' .* It has 'cats/0\.png': write paths"):
        open_source("list", write_zip(tmp_path, tree(*IMAGES)), train_list=train)


@pytest.mark.parametrize("write", [write_zip, write_tar])
@pytest.mark.parametrize("prefix", ["", "train_val2018/"])
def test_paths_are_as_packed_or_below_the_top_folder(tmp_path, write, prefix):
    names = ("train_val2018/Aves/2/0.png", "train_val2018/Fungi/5/1.png")
    train = write_list(tmp_path, f"{prefix}Aves/2/0.png 0\n{prefix}Fungi/5/1.png 1\n")
    with open_source("list", write(tmp_path, tree(*names)), train_list=train) as source:
        assert source.read_image(f"{prefix}Fungi/5/1.png")[0, 0, 0] == 1


NFC, NFD = "caf\u00e9", "cafe\u0301"


@WRITERS
@pytest.mark.parametrize("on_disk", [NFC, NFD])
def test_names_and_labels_in_any_unicode_form_are_one(tmp_path, write, on_disk):
    (tmp_path / "data").mkdir()
    # Folder and file in different Unicode normalizations.
    data = write(
        tmp_path / "data", tree(f"{on_disk}/{NFC}.png", f"{on_disk}/{NFD}2.png", "b/1.png")
    )
    text = f"path,label\n{NFC}/{NFD}.png,{NFC}\n{NFD}/{NFC}2.png,{NFD}\nb/1.png,b\n"
    names = write_list(tmp_path, f"{NFD}\nb\n", "names.txt")
    train = write_list(tmp_path, text, "t.csv")
    for class_names in ("", names):
        with open_source("list", data, train_list=train, class_names=class_names) as source:
            assert set(source.class_names) == {NFC, "b"}
            assert len(set(source.train.labels.tolist())) == 2
            assert [source.read_image(i)[0, 0, 0] for i in source.train.ids] == [0, 1, 2]


def test_a_path_too_long_for_the_disk_is_an_image_that_cannot_be_read(tmp_path, images):
    train = write_list(tmp_path, f"cats/0.png 0\ndogs/{'é' * 200}.png 1\n")
    with (
        open_source("list", images, train_list=train) as source,
        pytest.raises(UserError, match="cannot be read"),
    ):
        source.read_image(source.train.ids[1])


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("head", ["", "File Name{}Class-Name\n", "filepaths{}labels\n"])
@pytest.mark.parametrize("ending", ["csv", "tsv"])
def test_tables_have_the_separators_of_many_programs(tmp_path, images, separator, head, ending):
    rows = ("cats/1.png", "cat"), ("dogs/café 2.png", "dog"), ("dogs/3.png", '"a, b; c|d"')
    text = head.format(separator) + "".join(f"{separator.join(row)}\n" for row in rows)
    path = write_list(tmp_path, "\n" + text, f"t.{ending}")
    with open_source("list", images, train_list=path) as source:
        assert source.train.ids == tuple(row[0] for row in rows)
        assert source.class_names == ("a, b; c|d", "cat", "dog")


def test_labels_that_cannot_be_told_apart_are_one_class(tmp_path, images, caplog):
    text = "cats/0.png,cat\ncats/1.png,cat\u200f\ndogs/3.png,\u202adog\u202c\ndogs/café 2.png,Dog\n"
    with open_source("list", images, train_list=write_list(tmp_path, text, "t.csv")) as source:
        assert source.class_names == ("Dog", "cat", "dog")
        assert source.train.labels.tolist() == [1, 1, 2, 0]
    assert "'Dog' and 'dog'" in caplog.text
    names = write_list(tmp_path, "dog \ncat\u200e\nDog\n", "names.txt")
    path = str(tmp_path / "t.csv")
    with open_source("list", images, train_list=path, class_names=names) as source:
        assert source.class_names == ("dog", "cat", "Dog")


def test_joiners_of_scripts_and_emoji_are_kept(tmp_path, images):
    family, word = "\U0001f468\u200d\U0001f469", "\u0645\u06cc\u200c\u062e"
    text = f"cats/0.png,{family}\ncats/1.png,{word}\n"
    with open_source("list", images, train_list=write_list(tmp_path, text, "t.csv")) as source:
        assert set(source.class_names) == {family, word}


def test_columns_that_are_not_used_are_told(tmp_path, images, caplog):
    text = ",path,label,is_training\n0,cats/0.png,cat,1\n1,dogs/3.png,dog,0\n"
    with open_source("list", images, train_list=write_list(tmp_path, text, "t.csv")) as source:
        assert len(source.train.ids) == 2
    assert "the columns 'is_training' are not used" in caplog.text


@pytest.mark.parametrize(
    ("name", "cells"),
    [
        ("fold", ("train", "test", "")),
        ("data_type", ("Train", "valid", "test")),
        ("Usage", ("Training", "PublicTest", "PrivateTest")),
    ],
)
def test_columns_of_other_names_that_name_subsets_are_refused(tmp_path, images, name, cells):
    table = f"path,label,{name},source\n" + "".join(
        f"{image},{label},{cell},web\n"
        for image, label, cell in zip(IMAGES[:3], ("cat", "dog", "cat"), cells, strict=True)
    )
    message = f"the column '{name.casefold()}' names subsets .*: call it 'split'"
    with pytest.raises(UserError, match=message):
        open_source("list", images, train_list=write_list(tmp_path, table, "t.csv"))


@pytest.mark.parametrize(
    "cells",
    [("train", "train", "training"), ("train", "test", "bus"), ("train", "test", "holdout 1")],
)
def test_other_columns_are_left_out(tmp_path, images, cells):
    table = "path,label,kind\n" + "".join(
        f"{image},{label},{cell}\n"
        for image, label, cell in zip(IMAGES[:3], ("cat", "dog", "cat"), cells, strict=True)
    )
    with open_source("list", images, train_list=write_list(tmp_path, table, "t.csv")) as source:
        assert len(source.train.ids) == 3


def test_beside_a_column_of_subsets_another_one_is_left_out(tmp_path, images):
    table = "path,label,split,was\ncats/0.png,cat,train,test\ndogs/3.png,dog,train,train\n"
    with open_source("list", images, train_list=write_list(tmp_path, table, "t.csv")) as source:
        assert len(source.train.ids) == 2


def test_a_data_set_column_gives_the_subset(tmp_path, images):
    text = "path;label;data set\ncats/0.png;cat;train\ndogs/3.png;dog;TRAIN\ncats/1.png;cat;valid\n"
    with open_source("list", images, train_list=write_list(tmp_path, text, "t.csv")) as source:
        assert source.train.ids == ("cats/0.png", "dogs/3.png")
        assert source.validation.ids == ("cats/1.png",)


def test_a_list_with_some_images_missing_from_a_folder_is_opened(tmp_path, images):
    text = "cats/9.png 0\ndogs/3.png 1\n"
    with (
        open_source("list", images, train_list=write_list(tmp_path, text)) as source,
        pytest.raises(UserError, match=r"9\.png: cannot be read"),
    ):
        source.read_image("cats/9.png")


def test_a_list_without_its_images_is_opened_to_draw_a_split(tmp_path):
    path = write_list(tmp_path, "cats/1.png 0\ndogs/3.png 1\n")
    with open_source("list", str(tmp_path), train_list=path) as source:
        assert source.train.ids == ("cats/1.png", "dogs/3.png")

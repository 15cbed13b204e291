import json

import pytest

from candle_tf.data.splits.class_counts import read_class_counts
from candle_tf.errors import UserError

CLASSES = ("ant", "bee", "cat")


def write_file(tmp_path, name, text):
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("given", ["5,3,2", " 5, 3 ,2"])
def test_numbers_are_in_the_order_of_the_classes(given):
    assert read_class_counts(given, CLASSES) == [5, 3, 2]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.json", "[5, 3, 2]"),
        ("by_class.json", json.dumps({"cat": 2, "ant": 5, "bee": 3})),
        ("plain.csv", "bee,3\nant,5\ncat,2\n"),
        ("headed.csv", "\ufeffclass,count\r\nant,5\r\nbee,3\r\n\r\ncat,2\r\n"),
        ("tabs.TSV", "class\timages\ncat\t2\nbee\t3\nant\t5\n"),
    ],
)
def test_files_give_the_same(tmp_path, name, text):
    assert read_class_counts(write_file(tmp_path, name, text), CLASSES) == [5, 3, 2]


@pytest.mark.parametrize("name", ["cafe\u0301", "café", " caf\u00e9\u200b"])
@pytest.mark.parametrize("kind", ["json", "csv"])
def test_names_are_those_of_the_data_set_however_they_are_written(tmp_path, name, kind):
    text = json.dumps({"zoo": 2, name: 7}) if kind == "json" else f"zoo,2\n{name},7\n"
    path = write_file(tmp_path, f"counts.{kind}", text)
    assert read_class_counts(path, ("caf\u00e9", "zoo")) == [7, 2]


def test_two_spellings_of_one_class_are_that_class_twice(tmp_path):
    path = write_file(tmp_path, "a.json", json.dumps({"cafe\u0301": 1, "caf\u00e9": 2, "zoo": 3}))
    with pytest.raises(UserError, match=r"class 'caf\u00e9' is there twice"):
        read_class_counts(path, ("caf\u00e9", "zoo"))


def test_names_with_commas_are_quoted(tmp_path):
    path = write_file(tmp_path, "a.csv", '"crow, black",4\n"ant ""x""",1\n')
    assert read_class_counts(path, ('ant "x"', "crow, black")) == [1, 4]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.json", "[]", "there are none"),
        ("a.json", "{", "not valid class counts"),
        ("a.json", '"5"', "neither a list nor"),
        ("a.json", "[5, 3, 2.5]", "2.5 is not a whole number"),
        ("a.json", "[5, 3, true]", "True is not a whole number"),
        ("a.json", "[5, 3, -2]", "-2 is not a whole number"),
        ("a.json", '{"ant": 5, "bee": 3, "cat": 2, "ant": 4}', "'ant' is there twice"),
        ("a.json", '{"ant": 5, "bee": 3}', "no count for class 'cat'"),
        ("a.json", '{"ant": 5, "bee": 3, "cat": 2, "dog": 1}', "no class 'dog'"),
        ("a.csv", "ant,5\nbee,3\ncat,2\nbee,9\n", "'bee' is there twice"),
        ("a.csv", "ant,5\nbee\n", "'bee' is not a class and a count"),
        ("a.csv", "ant,5\nbee,many\ncat,2\n", "'many' is not a whole number"),
        ("a.csv", "", "there are none"),
        ("a.txt", "5", "cannot be understood"),
    ],
)
def test_what_is_no_list_of_counts_is_refused_with_the_place(tmp_path, name, text, message):
    path = write_file(tmp_path, name, text)
    with pytest.raises(UserError, match=message) as caught:
        read_class_counts(path, CLASSES)
    assert path in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.json: the class counts cannot be read"):
        read_class_counts(str(tmp_path / "none.json"), CLASSES)
    with pytest.raises(UserError, match="--class_counts=5,many cannot be understood"):
        read_class_counts("5,many", CLASSES)


@pytest.mark.parametrize("content", ["5,3," + "9" * 20, "[" * 100_000, f"[{'9' * 20}, 1, 2]"])
def test_numbers_and_brackets_without_end_are_refused(tmp_path, content):
    path = tmp_path / "counts.json"
    path.write_text(content)
    for given in (content, str(path)):
        with pytest.raises(UserError, match=r"class.counts"):
            read_class_counts(given, ("a", "b", "c"))

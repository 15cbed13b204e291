import json
import re
from pathlib import Path
from typing import Any

import pytest

from candle_tf.data.sources.registry import Source, open_source
from candle_tf.errors import UserError
from tests.data.sources.test_registry import tree, write_folder, write_zip

IMAGES = ("Aves/2/0.png", "Fungi/5/1.png", "Aves/2/3.png")


def annotations() -> dict[str, Any]:
    return {
        "info": {},
        "images": [{"id": 7 + i, "file_name": name} for i, name in enumerate(IMAGES)],
        "categories": [{"id": 5, "name": "toadstool"}, {"id": 2, "name": "finch"}],
        "annotations": [
            {"id": 1, "image_id": 8, "category_id": 5},
            {"id": 2, "image_id": 7, "category_id": 2},
            {"id": 3, "image_id": 7, "category_id": 2},
        ],
    }


def open_coco(root: Path, content: object, text: str = "") -> Source:
    (root / "train.json").write_text(text or json.dumps(content))
    data = write_folder(root / "images", tree(*IMAGES))
    return open_source("coco", data, train_list=str(root / "train.json"))


def test_annotations_give_classes_by_name(tmp_path, caplog):
    with open_coco(tmp_path, annotations()) as source:
        assert source.class_names == ("finch", "toadstool")
        assert source.train.ids == (IMAGES[1], IMAGES[0])
        assert source.train.labels.tolist() == [1, 0]
        assert source.read_image(IMAGES[1])[0, 0, 0] == 1
    assert "1 of 3 images have no annotation" in caplog.text


def test_images_may_be_in_an_archive_and_subsets_in_files_of_their_own(tmp_path):
    content = annotations()
    (tmp_path / "train.json").write_text(json.dumps(content))
    content["annotations"] = [{"image_id": 9, "category_id": 2}]
    (tmp_path / "val.json").write_text(json.dumps(content))
    lists = {f"{name}_list": str(tmp_path / file) for name, file in
             (("train", "train.json"), ("validation", "val.json"))}  # fmt: skip
    with open_source("coco", write_zip(tmp_path, tree(*IMAGES)), **lists) as source:
        assert source.validation.ids == (IMAGES[2],)
        assert source.validation.labels.tolist() == [0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": [{"image_id": 1, "category_id": 2}]}, "image 1, which the file lacks"),
        ({"annotations": [{"image_id": 7, "category_id": 3}]}, "category 3, which the file lacks"),
        ({"annotations": []}, "no image has an annotation"),
        ({"images": 5}, r"no annotations of COCO \(TypeError"),
        ({"images": [{"id": [], "file_name": "x"}]}, "no annotations of COCO"),
    ],
)
def test_bad_annotations_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        open_coco(tmp_path, annotations() | change)


@pytest.mark.parametrize("text", ["[" * 100_000, "{", "[]", '"x"', '{"images": 1' + "0" * 5000])
def test_what_is_no_json_object_is_refused(tmp_path, text):
    with pytest.raises(UserError, match="no annotations of COCO"):
        open_coco(tmp_path, None, text)


def test_a_path_that_leads_out_is_refused(tmp_path):
    content = annotations()
    content["images"][0]["file_name"] = "../secret.png"
    with pytest.raises(UserError, match=r"annotated image 2: the path '\.\./secret\.png'"):
        open_coco(tmp_path, content)


def test_two_images_of_one_file_are_refused(tmp_path):
    content = annotations()
    content["images"][0]["file_name"] = IMAGES[1]
    with pytest.raises(UserError, match=r"two images have the file_name 'Fungi/5/1\.png'"):
        open_coco(tmp_path, content)


def test_two_images_of_one_id_are_refused_with_the_place(tmp_path):
    content = annotations()
    content["images"][2]["id"] = 7
    message = (
        r"train\.json, entry 3 of 'images': 'Aves/2/3\.png' has the id 7, which 'Aves/2/0\.png' has"
    )
    with pytest.raises(UserError, match=message):
        open_coco(tmp_path, content)


def test_two_categories_of_one_id_are_refused_with_the_place(tmp_path):
    content = annotations()
    content["categories"].append({"id": 2, "name": "wren"})
    message = r"entry 3 of 'categories': 'wren' has the id 2, which 'finch' has already"
    with pytest.raises(UserError, match=message):
        open_coco(tmp_path, content)


@pytest.mark.parametrize("part", ["images", "categories"])
def test_what_is_there_twice_in_the_same_way_counts_once(tmp_path, part):
    content = annotations()
    content[part] += content[part][:1]
    with open_coco(tmp_path, content) as source:
        assert source.class_names == ("finch", "toadstool")
        assert source.train.ids == (IMAGES[1], IMAGES[0])


@pytest.mark.parametrize("alike", ["finch", "finch\u200b "])
def test_categories_whose_names_cannot_be_told_apart_are_one_class(tmp_path, alike, caplog):
    content = annotations()
    content["categories"] += [{"id": 11, "name": alike}, {"id": 12, "name": "toadstool"}]
    content["annotations"] += [
        {"image_id": 9, "category_id": 11},
        {"image_id": 7, "category_id": 11},
    ]
    with open_coco(tmp_path, content) as source:
        assert source.class_names == ("finch", "toadstool")
        labels = dict(zip(source.train.ids, source.train.labels.tolist(), strict=True))
    assert labels == {IMAGES[0]: 0, IMAGES[1]: 1, IMAGES[2]: 0}
    assert "the categories with the ids '11', '2' are one class, 'finch'" in caplog.text
    # Of categories without an annotation nothing has to be told.
    assert "'12'" not in caplog.text


def test_a_category_without_a_name_that_can_be_seen_is_refused(tmp_path):
    content = annotations()
    content["categories"][1]["name"] = "\u200f "
    with pytest.raises(UserError, match="the category 2 has no name that can be seen"):
        open_coco(tmp_path, content)


@pytest.mark.parametrize("names", [("2", "1"), (2019, 1998), ("10", "9"), ("1.0", "1")])
def test_names_that_are_numbers_are_names(tmp_path, names):
    content = annotations()
    for category, name in zip(content["categories"], names, strict=True):
        category["name"] = name
    with open_coco(tmp_path, content) as source:
        assert set(source.class_names) == {str(name) for name in names}
        shown = [source.class_names[label] for label in source.train.labels]
    assert shown == [str(name) for name in names]


def test_class_names_give_the_order_of_names_that_are_numbers(tmp_path):
    content = annotations()
    content["categories"] = [{"id": 5, "name": "1"}, {"id": 2, "name": "2"}]
    (tmp_path / "names.txt").write_text("2\n1\n")
    (tmp_path / "train.json").write_text(json.dumps(content))
    data = write_folder(tmp_path / "images", tree(*IMAGES))
    lists = {name: str(tmp_path / file) for name, file in
             (("train_list", "train.json"), ("class_names", "names.txt"))}  # fmt: skip
    with open_source("coco", data, **lists) as source:
        assert source.class_names == ("2", "1")
        assert source.train.labels.tolist() == [1, 0]


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [("categories", "name", None), ("images", "file_name", True), ("categories", "name", ["a"])],
)
def test_a_name_that_is_no_text_is_refused_with_the_place(tmp_path, part, field, value):
    content = annotations()
    content[part][1][field] = value
    message = f"entry 2 of '{part}': {field} is {re.escape(json.dumps(value))}, which is no text"
    with pytest.raises(UserError, match=message):
        open_coco(tmp_path, content)

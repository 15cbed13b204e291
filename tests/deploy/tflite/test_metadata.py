"""student.json says enough to use the files without this package."""

import json

import numpy as np
from PIL import Image

from candle_tf.data.images.store import stretch
from candle_tf.deploy.tflite.metadata import describe_files, encode_metadata, preprocessing

FILES = {
    "tflite": {"name": "student.lce.tflite", "sha256": "ab", "bytes": 7, "accuracy": {"mean": 0.5}},
    "tflite_float": {"name": "student.float.tflite", "sha256": "cd", "bytes": 90, "accuracy": {}},
}


def test_input_labels_and_runtimes_are_told():
    content = json.loads(
        encode_metadata(describe_files(FILES, labels=["cat", "d\udce9"], side=32, image_side=96))
    )
    assert content["input"]["shape"] == [1, 32, 32, 3]
    assert content["input"]["dtype"] == "uint8"
    assert content["output"]["shape"] == [1, 2]
    assert content["labels"] == ["cat", "d\udce9"]
    assert content["shot_groups"] == {}
    files = content["files"]
    assert files["student.lce.tflite"]["runtime"].startswith("larq-compute-engine ")
    assert files["student.float.tflite"]["runtime"].startswith("ai-edge-litert ")
    assert files["student.lce.tflite"]["sha256"] == "ab"
    assert files["student.lce.tflite"]["accuracy"] == {"mean": 0.5}


def test_shot_groups_are_positions_of_labels():
    groups = {"many": np.array([2, 0]), "few": np.array([1])}
    labels = ["ant", "bee", "cat"]
    told = describe_files(FILES, labels=labels, side=32, image_side=96, groups=groups)
    assert json.loads(encode_metadata(told))["shot_groups"] == {"many": [2, 0], "few": [1]}


def test_the_second_resize_is_told_only_where_there_is_one():
    assert [step for step in preprocessing(64, 64) if "resize" in step] == [
        "resize to 64 x 64, ignoring the aspect: bilinear, antialiased (Pillow's BILINEAR)"
    ]
    twice = [step for step in preprocessing(32, 96) if "resize" in step]
    assert [step.partition(":")[0] for step in twice] == [
        "resize to 96 x 96, ignoring the aspect",
        "resize to 32 x 32",
    ]


def test_a_centre_crop_is_told_between_the_two():
    steps = preprocessing(64, 64, crop=True)
    assert ["7/8" in step for step in steps] == [False, False, True, False, False]
    assert steps[3].startswith("resize to 64 x 64")


def test_the_first_resize_is_the_datas_own():
    image = np.random.default_rng(0).integers(0, 256, (40, 70, 3)).astype(np.uint8)
    told = np.asarray(Image.fromarray(image).resize((16, 16), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(stretch(image, 16), told)

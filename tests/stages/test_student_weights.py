"""What a model card says of the weights that a student began with."""

import hashlib
import json
from pathlib import Path

import candle_tf
from candle_tf.stages.student_weights import describe_starting_weights
from candle_tf.students.settings import StudentSettings
from candle_tf.students.weights.larq_zoo import FILES

_SHIPPED = Path(candle_tf.__file__).parent / "students/weights/reactnet_a_width_0.5.json"


def describe(weights: object, **settings: object) -> tuple[str, str | None, str, str] | None:
    found = describe_starting_weights(StudentSettings(student_weights=str(weights), **settings))
    return found and tuple(found[name] for name in ("weights", "sha256", "data", "licence"))


def test_random_and_shipped_weights_and_those_of_larq_zoo():
    assert describe("") is None
    card = json.loads(_SHIPPED.read_text())
    told = ("pretrained", card["sha256"], "tiny_imagenet_64.zip", card["data"]["license"])
    assert describe("pretrained", width=0.5) == told
    sha256 = FILES["quicknet"].sha256
    told = ("larq_zoo", sha256, "ImageNet", "unknown")
    assert describe("larq_zoo", student="quicknet", width=1.0) == told


def test_a_files_data_are_told_by_the_card_of_the_same_weights_alone(tmp_path):
    file, card = tmp_path / "mine.safetensors", tmp_path / "mine.json"
    file.write_bytes(b"weights")
    sha256 = hashlib.sha256(b"weights").hexdigest()
    unknown = ("mine.safetensors", sha256, "unknown", "unknown")
    assert describe(file) == unknown
    data = {"name": "birds.zip", "license": "CC BY 4.0"}
    for content, told in (
        ({"sha256": sha256, "data": data}, (*unknown[:2], "birds.zip", "CC BY 4.0")),
        (
            {"sha256": sha256, "data": {**data, "license": ""}},
            (*unknown[:2], "birds.zip", "unknown"),
        ),
        ({"sha256": "0" * 64, "data": data}, unknown),
        ({"sha256": sha256, "data": "birds"}, unknown),
        ([], unknown),
    ):
        card.write_text(json.dumps(content))
        assert describe(file) == told
    file.unlink()
    gone = ("mine.safetensors", "1" * 64, "unknown", "unknown")
    assert describe(file, student_weights_sha256="1" * 64) == gone
    assert describe(file) == (gone[0], None, *gone[2:])


def test_a_runs_data_are_told_by_its_settings(tmp_path):
    run = tmp_path / "earlier"
    run.mkdir()
    assert describe(run) == ("earlier", None, "unknown", "unknown")
    for settings, data, licence in (
        ({"dataset": "folder", "data_dir": "/home/me/birds.zip"}, "birds.zip", "unknown"),
        ({"data_dir": "birds", "data_license": "CC0"}, "birds", "CC0"),
        (
            {"data_dir": "birds", "student_weights": "/home/me/first.h5"},
            "birds; that run began with the weights first.h5",
            "unknown",
        ),
    ):
        (run / "config.json").write_text(json.dumps(settings))
        assert describe(run) == ("earlier", None, data, licence)

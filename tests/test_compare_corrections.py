"""`tools.compare_corrections`: which images each p is of, and which are measured."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy.special import softmax

from candle_tf.config import Config
from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError
from tools.compare_corrections import _left_out, correction_rows, main, unmeasured_text

GROUPS = {"many": np.array([0]), "few": np.array([1, 2])}
SHIFT = np.array([1.5, 0.0, -1.5])


def outputs(seed: int, each: int, shift: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    labels = np.repeat(np.arange(3), each)
    noise = np.random.default_rng(seed).normal(size=(3 * each, 3))
    return noise + 2.0 * np.eye(3)[labels] + shift, labels


def mean_accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    right = logits.argmax(axis=1) == labels
    return 100 * float(np.mean([right[labels == c].mean() for c in range(3)]))


def log_p(logits: np.ndarray, labels: np.ndarray) -> np.ndarray:
    p = softmax(logits, axis=1)
    return np.log(np.mean([p[labels == c].mean(axis=0) for c in range(3)], axis=0))


def test_images_that_were_left_out_are_measured_where_there_are_any():
    train, validation = outputs(0, 40, 0 * SHIFT), outputs(1, 40, SHIFT)
    left_out = outputs(2, 200, SHIFT)
    rows = correction_rows("a", train, validation, left_out, GROUPS)
    logits, labels = left_out
    for row, expected in zip(
        rows, (logits, logits - log_p(*train), logits - log_p(*validation)), strict=True
    ):
        assert row["images"] == "600"
        assert float(row["mean %"]) == pytest.approx(mean_accuracy(expected, labels), abs=0.051)
        assert set(row) == {"run", "images", "classes", "p of", "mean %", "many", "few"}
        assert row["classes"] == "3 of 3"
    # The preference that training images do not show is taken back by validation images alone.
    plain, by_training, by_validation = (float(row["mean %"]) for row in rows)
    assert by_validation > plain + 3
    assert abs(by_training - plain) < 1


def test_without_such_images_those_of_validation_are_corrected_by_the_others():
    train, validation = outputs(0, 40, 0 * SHIFT), outputs(1, 10, SHIFT)
    none = (np.zeros((0, 1)), np.zeros(0, int))
    rows = correction_rows("a", train, validation, none, GROUPS)
    logits, labels = validation
    part = np.tile(np.arange(10) % 5, 3)
    held_out = np.concatenate(
        [logits[part == k] - log_p(logits[part != k], labels[part != k]) for k in range(5)]
    )
    order = np.concatenate([np.flatnonzero(part == k) for k in range(5)])
    expected = mean_accuracy(held_out, labels[order])
    assert float(rows[2]["mean %"]) == pytest.approx(expected, abs=0.051)
    assert rows[0]["images"] == "30"


@pytest.mark.parametrize("has_left_out", [True, False])
def test_classes_without_images_are_named_and_counted(has_left_out):
    train, (logits, labels) = outputs(0, 40, 0 * SHIFT), outputs(1, 10, SHIFT)
    kept = labels != 0
    some, none = (logits[kept], labels[kept]), (np.zeros((0, 1)), np.zeros(0, int))
    validation, left_out = ((logits, labels), some) if has_left_out else (some, none)
    for row in correction_rows("a", train, validation, left_out, GROUPS):
        assert (row["classes"], row["images"]) == ("2 of 3", "20")
        assert row["mean %"] == row["few"]
    told = unmeasured_text("a", validation[1], left_out[1], ["cat", "dog", "eel"])
    images = "left-out" if has_left_out else "validation"
    assert told == f"a: 1 class has no {images} images and is not in the means: cat."
    assert unmeasured_text("a", labels, none[1], ["cat", "dog", "eel"]) == ""


def test_a_left_out_image_that_cannot_be_read_is_skipped_and_told(tmp_path, caplog):
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(3):
            pixels = np.full((8, 8, 3), 50 * number, np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    (tmp_path / "data" / "dog" / "1.png").write_bytes(b"no image")
    data: Any = SimpleNamespace(
        split=SimpleNamespace(subsets={"train": SimpleNamespace(ids=["cat/0.png"])}),
        check={},
        train=SimpleNamespace(images=SimpleNamespace(array=np.zeros((1, 8, 8, 3), np.uint8))),
    )
    with open_source("folder", str(tmp_path / "data")) as source, caplog.at_level("WARNING"):
        assert sorted(source.train.ids)[0] == "cat/0.png"
        found = _left_out(Config(), data, source, tmp_path / "cache")
        assert found.labels.tolist() == [0, 0, 1, 1]
        assert found.images.batch(np.arange(4))["images"][:, 0, 0, 0].tolist() == [50, 100, 0, 100]
    assert "1 of 5 left-out images cannot be read" in caplog.text
    assert "dog/1.png" in caplog.text


def test_a_run_is_to_be_named():
    with pytest.raises(UserError, match="Give folders"):
        main([])

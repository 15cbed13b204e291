"""The model card: Markdown and JSON read back on their own, with hostile class names."""

import json
import re
from types import SimpleNamespace

import numpy as np
import pytest

from candle_tf.metrics import evaluate_logits
from candle_tf.reporting.model_card import card_markdown, model_card
from candle_tf.reporting.results import Results

NAMES = ["a|b\n# c", "[x](http://y)", "*z* <b> &amp; `q`"]
LABELS = np.array([0, 0, 1, 1, 1, 2])
PREDICTED = np.array([0, 0, 1, 0, 0, 1])


@pytest.fixture(scope="module")
def card():
    return made_card()


def made_card(prior_correction="0.5", strength=None):
    groups = {"many": np.array([0]), "few": np.array([1, 2])}
    metrics = evaluate_logits(3 * np.eye(3)[PREDICTED], LABELS, groups, NAMES)
    results = Results(
        config={"student": "reactnet_a", "dataset": "folder", "data_dir": "/home/me/my_set.zip",
                "train_list": "", "width": 0.5, "image_size": 64, "method": "candle",
                "teacher": "t", "seed": 7, "stem_stride": 1, "prior_correction": prior_correction,
                "precision": "float32"},
        split={"hash": "abc", "profile": "natural", "selection": "seeded", "train": 160,
               "validation": 0, "test": 6,
               "train_counts": dict(zip(NAMES, (150, 6, 4), strict=True)),
               "groups": {"many": NAMES[:1], "few": NAMES[1:]}},
        selected_epoch=2, last_epoch=3, metrics={"tflite": metrics}, bytes={},
        export={"agreement": {"tflite": {"argmax_agreement": 0.75}},
                "bytes": {"tflite": 12_345, "tflite_float": 234_567},
                "latency": {"machine": "M", "threads": 1, "baseline": "tflite_float",
                            "tflite": {"ratio": 0.5, "ratio_min": 0.25, "ratio_max": 0.75}}},
        prior_correction=strength,
    )  # fmt: skip
    costs = SimpleNamespace(binary_multiply_adds=6400, float_multiply_adds=11, ops=111.0,
                            binary_parameters=64, float_parameters=5,
                            frozen_parameters=2)  # fmt: skip
    files = {"tflite": "s.lce.tflite", "tflite_float": "s.float.tflite"}
    starting = {"weights": "w_1.h5", "sha256": None, "data": "[n](x)", "licence": "unknown"}
    return model_card(results, operations=costs, files=files, starting_weights=starting,
                      precision="bfloat16",
                      versions={"python": "3.11", "tf_keras": "2.19.0"})  # fmt: skip


def cells(markdown):
    rows = [re.split(r"(?<!\\)\|", line)[1:-1] for line in markdown.splitlines() if line[:1] == "|"]
    return {re.sub(r"\\(.)", r"\1", row[0].strip()): [re.sub(r"\\(.)", r"\1", cell.strip())
            for cell in row[1:]] for row in rows}  # fmt: skip


def test_figures_are_those_of_the_measured_file(card):
    assert card == json.loads(json.dumps(card))
    accuracy = card["accuracy"]
    assert accuracy["mean"] == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert accuracy["groups"] == pytest.approx({"many": 1, "few": 1 / 6})
    assert [row["class"] for row in accuracy["worst_classes"]] == [NAMES[2], NAMES[1], NAMES[0]]
    confidence = np.exp(3) / (np.exp(3) + 2)
    assert accuracy["expected_calibration_error"] == pytest.approx(abs(0.5 - confidence))
    assert card["data"]["imbalance_factor"] == 37.5
    assert card["data"]["source"] == "my_set.zip"
    assert card["operations"]["parameters_32_bit"] == 7


def test_top_5_is_a_line_where_it_was_measured(card):
    assert "top_5" not in card["accuracy"]
    assert "top-5" not in card_markdown(card)
    read = cells(card_markdown({**card, "accuracy": {**card["accuracy"], "top_5": 0.8125}}))
    assert read["top-5, mean over classes"] == ["81.2"]


def test_markdown_holds_the_figures_of_the_json(card):
    read = cells(card_markdown(card))
    accuracy = card["accuracy"]
    assert read["mean over classes"] == [f"{100 * accuracy['mean']:.1f}"]
    assert read["few shots"] == [f"{100 * accuracy['groups']['few']:.1f}"]
    ece = accuracy["expected_calibration_error"]
    assert read["expected calibration error"] == [f"{100 * ece:.1f}"]
    assert read["s.lce.tflite"] == ["12,345"]
    assert read["binary multiply adds"] == ["6,400"]
    assert read["split sha256"] == ["abc"]
    assert read["imbalance factor"] == ["37.50"]
    assert read[NAMES[1]] == ["6", "33.3"]
    assert "/home/me" not in card_markdown(card)


def test_the_student_and_what_it_began_with_are_told(card):
    read = cells(card_markdown(card))
    assert (read["stem stride"], read["prior correction"]) == (["1"], ["0.5"])
    assert [read[name] for name in ("weights", "sha256", "data", "licence")] == [
        ["w_1.h5"], ["unknown"], ["[n](x)"], ["unknown"]
    ]  # fmt: skip
    assert "began with random weights" not in card_markdown(card)
    assert "began with random weights" in card_markdown({**card, "starting_weights": None})


@pytest.mark.parametrize(
    ("given", "strength", "told"),
    [("auto", 0.75, "0.75 (auto)"), ("auto", 0.0, "0 (auto)"), ("auto", None, "auto"),
     ("0.5", 0.5, "0.5"), ("0", 0.0, "0")],
)  # fmt: skip
def test_the_strength_of_the_correction_is_told_where_it_was_found(given, strength, told):
    assert cells(card_markdown(made_card(given, strength)))["prior correction"] == [told]


def test_counts_of_classes_say_that_they_include_validation_images(card):
    counted = "training images, validation images included"
    assert card["data"]["counts_of_classes"] == counted
    read = cells(card_markdown(card))
    assert read["counts of classes"] == [counted]
    assert read["worst class"] == [counted, "%"]
    assert read[f"classes of many shots (more than 100 {counted})"] == ["1"]
    # What is trained on is counted without.
    assert read["train images"] == ["160"]


def test_class_names_do_not_act_as_markdown(card):
    text = card_markdown(card)
    assert "\n# c" not in text
    assert not re.search(r"(?<!\\)(\]\(|<b>|&amp;|\*z|`q)", text)


def test_names_of_files_and_packages_are_as_they_are_and_precision_as_it_came_out(card):
    rows = cells(card_markdown(card))
    assert rows["tf_keras"] == ["2.19.0"]
    assert rows["training precision"] == ["bfloat16"]

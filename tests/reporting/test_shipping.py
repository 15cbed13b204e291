"""The sentence that says what to ship."""

from dataclasses import replace

import numpy as np
import pytest

from candle_tf.metrics import evaluate_logits
from candle_tf.reporting.results import Results
from candle_tf.reporting.shipping import shipping_sentence, weaker_teacher_sentence

LABELS = np.array([0, 0, 1, 1])


def metrics(right: list[bool]):
    predictions = np.where(right, LABELS, 1 - LABELS)
    return evaluate_logits(np.eye(2)[predictions], LABELS, {"many": [0], "few": [1]}, ["a", "b"])


def results(student: list[bool], teacher: list[bool], ratio: float, sizes: tuple[int, int]):
    record = {"resolution": 96, "latency": {"tflite": {"ratio": ratio}}}
    return Results(
        config={},
        split={},
        selected_epoch=1,
        last_epoch=1,
        metrics={
            "teacher": metrics(teacher),
            "tflite": metrics(student),
            "teacher_int8": metrics(teacher),
        },
        bytes={"tflite": sizes[0], "teacher_int8": sizes[1]},
        export={"teacher_int8": record},
    )


@pytest.mark.parametrize(
    ("ratio", "sizes", "words"),
    [
        (0.25, (1000, 4000), ("4.0 times smaller", "4.0 times less time")),
        (3.0, (8000, 4000), ("2.0 times larger", "3.0 times more time")),
    ],
)
def test_it_says_which_is_smaller_and_faster(ratio, sizes, words):
    sentence = shipping_sentence(results([True] * 4, [True] * 4, ratio, sizes))
    for word in words:
        assert word in sentence
    assert "as accurate on few-shot classes (100.0 %)" in sentence


@pytest.mark.parametrize(
    ("student", "teacher", "words"),
    [
        # Equal on the mean, and the student better where few images were.
        ([True, False, True, True], [True, True, True, False], "50.0 points better on few-shot"),
        ([True, True, True, False], [True, False, True, True], "50.0 points worse on few-shot"),
    ],
)
def test_it_compares_the_rarest_classes(student, teacher, words):
    assert words in shipping_sentence(results(student, teacher, 1.0, (1, 1)))


def test_it_says_why_there_is_no_int8_teacher():
    made = results([True] * 4, [True] * 4, 1.0, (1, 1))
    made.export["teacher_int8"] = {"error": "no such operator"}
    assert "no such operator" in shipping_sentence(made)
    del made.export["teacher_int8"]
    assert "--export_teacher=off" in shipping_sentence(made)
    del made.metrics["teacher"]
    assert shipping_sentence(made) == "The student reaches 100.0 % mean class accuracy."
    # A refused export: the figure is of the student in Keras.
    made.metrics["student"] = metrics([True, False, True, True])
    del made.metrics["tflite"]
    assert shipping_sentence(made) == "The student reaches 75.0 % mean class accuracy."
    made.metrics.clear()
    assert shipping_sentence(made) == ""


def test_it_says_how_accurate_the_student_itself_is():
    sentence = shipping_sentence(
        results([True, False, True, True], [True, True, True, True], 1.0, (1, 1))
    )
    assert sentence.startswith("The student reaches 75.0 % mean class accuracy; beside its teacher")
    assert "(96 px, 100.0 %)" in sentence


def test_it_is_told_where_the_teacher_is_weaker_than_its_student():
    def sentence_of(student: list[bool], teacher: list[bool]) -> str:
        run = results(student, teacher, 1.0, (1, 1))
        run.metrics["student"] = metrics(student)
        return weaker_teacher_sentence(run)

    sentence = sentence_of([True] * 4, [True, False, True, True])
    assert "weaker one: 75.0 %" in sentence
    assert "its student 100.0 %" in sentence
    assert sentence_of([True] * 4, [True] * 4) == sentence_of([False] * 4, [True] * 4) == ""


@pytest.mark.parametrize(
    ("config", "weight", "words"),
    [
        ({"label_weight": "0"}, 0.0, "know more than this teacher: --label_weight=auto learns"),
        # By older versions, which had no such setting.
        ({}, None, "know more than this teacher: --label_weight=auto learns"),
        (
            {"label_weight": "auto"},
            0.163,
            "Labels had 0.16 of the total loss (--label_weight=auto).",
        ),
        ({"label_weight": "0.3"}, 0.3, "Labels had 0.3 of the total loss (--label_weight=0.3)."),
        ({"label_weight": "0.3"}, None, "Labels had 0.3 of the total loss (--label_weight=0.3)."),
        ({"label_weight": "auto"}, None, "had a part of the total loss (--label_weight=auto)."),
        ({"label_weight": "auto"}, 0.0, "a number for --label_weight learns from them"),
        ({"method": "candle_crt", "label_weight": "0"}, 0.0, "--label_weight=auto learns"),
    ],
)
def test_it_is_told_how_much_a_run_of_a_weaker_teacher_learned_from_labels(config, weight, words):
    sentence = labels_sentence({"method": "candle"} | config, weight)
    assert words in sentence
    used = weight or config.get("label_weight", "0") != "0"
    assert used != ("--label_weight=auto learns" in sentence)


@pytest.mark.parametrize("weight", [0.5, 0.0, None])
def test_no_option_that_the_method_does_not_have_is_advised(weight):
    sentence = labels_sentence({"method": "ltkd", "label_weight": "auto"}, weight)
    assert "--label_weight" not in sentence
    assert ("Labels had 0.5 of the total loss." in sentence) == bool(weight)


def labels_sentence(config: dict[str, str], weight: float | None) -> str:
    run = results([True] * 4, [True, False, True, True], 1.0, (1, 1))
    run.metrics["student"] = metrics([True] * 4)
    return weaker_teacher_sentence(replace(run, config=config, label_weight=weight))

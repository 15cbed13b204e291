"""The summary as a user sees it."""

import json
from pathlib import Path

import pytest

from candle_tf.students.analysis.cost import summarize
from candle_tf.summary import summary_json, summary_text
from tests.command import start
from tests.students.analysis.test_cost import two_layers

SNAPSHOTS = Path(__file__).parent / "students" / "analysis" / "snapshots"
SNAPSHOT = SNAPSHOTS / "reactnet_a_32_width_0.25.txt"
SMALL = ["--student=reactnet_a", "--image_size=32", "--classes=10", "--width=0.25"]
REGENERATE = (
    f"python -m candle_tf.summary {' '.join(SMALL)} > tests/students/snapshots/{SNAPSHOT.name}"
)


def test_printed_summary_is_the_stored_one(tmp_path):
    path = tmp_path / "summary.json"
    done = start("candle_tf.summary", *SMALL, f"--json={path}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == SNAPSHOT.read_text(), f"If this is as it should be, run: {REGENERATE}"

    figures = json.loads(path.read_text())
    assert (figures["student"], figures["classes"], figures["width"]) == ("reactnet_a", 10, 0.25)
    totals = figures["totals"]
    for name in ("binary_parameters", "float_multiply_adds", "ops"):
        assert totals[name] == sum(layer[name] for layer in figures["layers"])
    assert f"{totals['binary_parameters']:,}" in done.stdout
    assert all(layer["converts"] for layer in figures["layers"] if layer["binary_parameters"])


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--student=resnet"], ["--student=resnet", "reactnet_a"]),
        (["--image_size=4"], ["--image_size=4", "at least 8"]),
        (["--classes=0"], ["--classes=0", "at least 1"]),
        (["--width=0"], ["--width=0", "above 0"]),
        (["--stem_stride=3"], ["--stem_stride=3", "at most 2"]),
        (["--classes=many"], ["--classes=many", "whole number"]),
        (["reactnet_a"], ["'reactnet_a'", "not a flag"]),
    ],
    ids=lambda value: value[0] if value[0].startswith("-") else None,
)
def test_bad_values_are_refused_with_the_flags_name(arguments, said):
    done = start("candle_tf.summary", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    for words in said:
        assert words in done.stderr


def test_layers_that_will_not_convert_are_told_with_their_reason():
    summary = summarize(two_layers(pool=True))
    text = summary_text(summary)
    (row,) = [line for line in text.splitlines() if line.startswith("binary ")]
    assert row.endswith("NO")
    assert "0 of 1" in text
    assert text.splitlines()[-1].startswith("  binary: its activations come from MaxPool")
    (layer,) = [x for x in summary_json(summary)["layers"] if x["name"] == "binary"]
    assert layer["problem"] == summary.problems[0][1]


def test_bytes_of_the_rows_add_up_to_the_total():
    summary = summarize(two_layers(pool=False))
    rows = summary_text(summary).splitlines()[3:]
    total = next(line for line in rows if line.startswith("total"))
    heading = summary_text(summary).splitlines()[1]
    end = heading.index("bytes") + len("bytes")

    def size(line: str) -> int:
        text = line[:end].split()[-1].replace(",", "")
        return 0 if text == "–" else int(text)

    assert sum(size(line) for line in rows[: rows.index(total)]) == size(total) == summary.bytes


def test_a_student_of_a_plugin_has_a_summary():
    done = start(
        "candle_tf.summary", "--plugin=tests.tiny_parts", "--student=tiny_student", "--classes=7",
        "--image_size=16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "tiny_student, 16 x 16 x 3 pixels" in done.stdout
    assert "2 of 2 binary layers will convert" in done.stdout

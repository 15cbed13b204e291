"""`candle_tf.analyze` on made runs of 4 classes, whose figures are computed here by hand."""

import csv
from pathlib import Path

import numpy as np
import pytest

from candle_tf.errors import UserError
from candle_tf.metrics import evaluate_logits
from candle_tf.reporting import analysis, html
from candle_tf.reporting.image_predictions import TEST, write_image_predictions
from candle_tf.reporting.results import Results, write_results
from tests.command import start

CLASSES = ["a", "b", "c", "d"]
COUNTS = np.array([1000, 100, 10, 1])
GROUPS = {"many": ["a"], "medium": ["b"], "few": ["c", "d"]}
LABELS = np.repeat(np.arange(4), 10)
# Images of each class that are classified correctly, of 10.
CANDLE, OTHER, TAUGHT = [9, 8, 8, 6], [10, 7, 5, 2], [9, 9, 9, 9]


def logits_with(right: list[int]) -> np.ndarray:
    """The first `right[c]` images of class c are right, the rest are taken for the next class."""
    place = np.tile(np.arange(10), 4)
    predicted = np.where(place < np.array(right)[LABELS], LABELS, (LABELS + 1) % 4)
    return np.eye(4)[predicted] * 5


def read(folder: Path) -> analysis.Run:
    return analysis.read_run(folder, earlier={})


def make_run(
    folder: Path, right, norms, *, teacher=TAUGHT, images="image", classes=CLASSES, **config
) -> Path:
    """A finished run; `classes` may have another order than CLASSES, and more of them."""
    folder.mkdir()
    place = [classes.index(name) for name in CLASSES]
    labels, counts = np.array(place)[LABELS], np.full(len(classes), 50)
    counts[place] = COUNTS
    groups = {name: np.array([classes.index(c) for c in of]) for name, of in GROUPS.items()}
    logits = {"student": logits_with(right)} | (
        {"teacher": logits_with(teacher)} if teacher else {}
    )
    for name, values in logits.items():
        logits[name] = np.zeros((40, len(classes)))
        logits[name][:, place] = values
    settings = {"method": "candle", "optimizer": "adam", "calibration_resolutions": [96, 128],
                "run_dir": str(folder), **config}  # fmt: skip
    split = {"hash": "h", "train_counts": dict(zip(classes, counts.tolist(), strict=True)),
             "groups": GROUPS}  # fmt: skip
    metrics = {
        name: evaluate_logits(values, labels, groups, classes) for name, values in logits.items()
    }
    results = Results(settings, split, 1, 1, metrics, {}, {}, norms={"student": norms})
    write_results(results, folder / "report.json")
    ids = [f"{images}{number}" for number in range(40)]
    predicted = {name: values.argmax(axis=1) for name, values in logits.items()}
    write_image_predictions(folder / TEST, ids, labels, predicted, classes)
    return folder


def write_csv(path: Path, columns: dict[str, np.ndarray]) -> None:
    path.parent.mkdir(exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        writer.writerows(zip(*columns.values(), strict=True))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    base = tmp_path_factory.mktemp("runs")
    candle = make_run(base / "candle", CANDLE, (COUNTS**-0.25).tolist())
    steps = np.linspace(1.0, 0.0, 100)
    write_csv(candle / "student" / "steps.csv",
              {"epoch": np.ones(100), "lambda": steps, "lambda_rare": steps / 2})  # fmt: skip
    write_csv(candle / "calibrate" / "history.csv", {"epoch": [1, 2], "seconds": [3.5, 4.5]})
    sgd = make_run(base / "plain", OTHER, (COUNTS**0.5).tolist(), teacher=None,
                   method="cross_entropy", optimizer="adam_sgd")  # fmt: skip
    single = make_run(base / "single", CANDLE, [1.0] * 4, teacher=[9, 9, 8, 8],
                      calibration_resolutions=[128])  # fmt: skip
    elsewhere = make_run(base / "elsewhere", OTHER, [1.0] * 4, images="other")
    return candle, sgd, single, elsewhere


@pytest.fixture(scope="module")
def sections(folders):
    found = analysis.analyze([read(folder) for folder in folders])
    return {section.title: section for section in found}


def tables(section: html.Section) -> list[dict[str, dict[str, str]]]:
    """Each table as rows by their first cell."""
    return [
        {row[0]: dict(zip(item.columns, row, strict=True)) for row in item.rows}
        for item in section.items
        if isinstance(item, html.Table)
    ]


def text(section: html.Section) -> str:
    return " ".join(item for item in section.items if isinstance(item, str))


def test_the_exponent_of_the_norms_is_that_of_the_power_law(sections):
    (table,) = tables(sections["Classifier weights, head to tail"])
    assert table["candle"]["a"] == "-0.250"
    assert table["plain"]["a"] == "+0.500"
    assert table["plain"]["optimizer"] == "adam_sgd"
    assert table["candle"]["few"] == f"{np.mean([10**-0.25, 1.0]):.2f}"
    assert np.isnan(analysis.norm_exponent(np.ones(3), np.full(3, 7)))


def test_classes_without_weights_are_left_out_of_the_exponent_and_named(tmp_path):
    norms = COUNTS**-0.25
    norms[1] = 0
    folders = [
        make_run(tmp_path / "dead", CANDLE, norms.tolist()),
        make_run(tmp_path / "nothing", CANDLE, [0.0] * 4),
    ]
    first, *_ = [
        section for section in analysis.analyze([read(folder) for folder in folders])
        if section.title == "Classifier weights, head to tail"
    ]  # fmt: skip
    (table,) = tables(first)
    assert table["dead"]["a"] == "-0.250"
    assert table["nothing"]["a"] == "–"
    assert f"1 of dead, student ({CLASSES[1]})" in text(first)
    assert f"4 of nothing, student ({', '.join(CLASSES)})" in text(first)


def test_lambda_is_told_of_every_column(sections):
    section = sections["Lambda during training"]
    (table,) = [item for item in section.items if isinstance(item, html.Table)]
    assert [row[:2] for row in table.rows] == [["candle", "lambda"], ["candle", "lambda_rare"]]
    first, last = np.linspace(1, 0, 100)[:10].mean(), np.linspace(1, 0, 100)[-10:].mean()
    assert [table.rows[0][2], table.rows[0][4]] == [f"{first:.2f}", f"{last:.2f}"]


def test_lambda_of_two_stages_is_that_of_the_first(tmp_path):
    folder = make_run(tmp_path / "two", CANDLE, [1.0] * 4, method="candle_crt")
    write_csv(folder / "student_stage1" / "steps.csv",
              {"epoch": np.ones(50), "lambda": np.full(50, 0.25)})  # fmt: skip
    write_csv(folder / "student" / "steps.csv", {"epoch": np.ones(9), "objective": np.ones(9)})
    found = {section.title: section for section in analysis.analyze([read(folder)])}
    (table,) = tables(found["Lambda during training"])
    assert table["two"]["mean"] == "0.250"


def test_an_adversary_that_sees_the_class_is_compared_with_its_best_lambda(tmp_path, sections):
    assert "None of these runs tells" in text(sections["The adversary that sees the class"])
    folder = make_run(tmp_path / "seen", CANDLE, [1.0] * 4, balance="class_adversarial",
                      balance_tau=0.25, balance_prior=0.5)  # fmt: skip
    columns = {}
    for group in ("rare", "medium", "frequent"):
        columns |= {f"lambda_{group}": np.full(50, 0.5), f"share_{group}": np.full(50, 0.25),
                    f"lambda_sum_{group}": np.full(50, 0.125),
                    f"excess_{group}": np.zeros(50)}  # fmt: skip
    write_csv(folder / "student" / "steps.csv", {"epoch": np.ones(50), **columns})
    run = read(folder)
    found = {section.title: section for section in analysis.analyze([run])}
    (table,) = tables(found["The adversary that sees the class"])
    assert table["seen"]["gap"] == "0.000"
    assert table["seen"]["highest"] == "0.500"
    told = found["Lambda during training"]
    (lambdas,) = tables(told)
    assert not any("sum" in row["column"] for row in lambdas.values())
    # The columns are of points of a range of class sizes.
    assert all(f"`lambda_{group}`" in text(told) for group in ("rare", "medium", "frequent"))
    assert "those of a class at the low end, in the middle and at the high end" in text(told)


def test_resolutions_cost_pixels_and_what_they_gain_is_told_of_runs_that_differ_in_them(sections):
    section = sections["Resolutions of the teacher"]
    (table,) = tables(section)
    assert list(table) == ["candle", "single", "elsewhere"]
    assert table["single"]["pixels"] == f"{128**2 / (96**2 + 128**2):.2f}"
    assert table["candle"]["calibration s"] == "8"
    assert "candle and single differ in resolutions alone: teacher +5.0 points" in text(section)
    assert "elsewhere differ" not in text(section)


def test_images_are_counted_by_which_student_is_right(sections):
    changes, losing = tables(sections["candle compared with plain"])
    both = np.minimum(CANDLE, OTHER)
    assert [changes["all"][name] for name in ("both right", "first alone", "other alone")] == [
        str(both.sum()), str(sum(CANDLE) - both.sum()), str(sum(OTHER) - both.sum()),
    ]  # fmt: skip
    assert int(changes["all"]["neither"]) == 40 - np.maximum(CANDLE, OTHER).sum()
    assert changes["all"]["points"] == f"{100 * (np.sum(CANDLE) - np.sum(OTHER)) / 40:+.1f}"
    assert changes["few"]["points"] == "+35.0"
    assert changes["many"]["points"] == "-10.0"
    assert list(losing) == ["a"]
    assert losing["a"]["teacher %"] == "90.0"


def test_gain_against_class_size_and_where_it_does_not_help(sections):
    said = text(sections["candle compared with plain"])
    gains = (np.array(CANDLE) - np.array(OTHER)) / 10
    slope = np.polyfit(np.log10(COUNTS), gains, 1)[0]
    assert slope < 0
    assert f"gains {-100 * slope:.1f} points less" in said
    assert "1 of 4 classes are worse than with plain" in said
    # Class a: the teacher is right in 9 of 10, the other student in all.
    assert "In 1 of them the teacher itself is worse" in said


def test_a_class_without_test_images_has_no_gain():
    gains = np.array([0.1, np.nan, 0.3])
    expected = np.polyfit(np.log10([100, 1]), [0.1, 0.3], 1)[0]
    assert analysis.gain_per_decade(gains, np.array([100, 10, 1])) == pytest.approx(expected)


def test_other_test_images_are_not_compared(sections):
    section = sections["candle compared with elsewhere"]
    assert "not measured on the same test images" in text(section)
    assert not tables(section)


def test_runs_are_told_by_their_settings(sections):
    (table,) = tables(sections["Runs"])
    assert table["single"]["settings unlike the first run's"] == "calibration_resolutions=128"
    assert table["candle"]["mean %"] == f"{100 * np.sum(CANDLE) / 40:.1f}"


def test_the_command_prints_it_and_writes_a_page(folders, tmp_path):
    page = tmp_path / "analysis.html"
    done = start("candle_tf.analyze", *map(str, folders[:2]), f"--html={page}")
    assert done.returncode == 0, done.stderr
    assert "candle compared with plain" in done.stdout
    assert "Classes that lose most" in done.stdout
    assert page.read_text().count("data:image/png") == 3


def test_an_unfinished_run_and_no_run_are_told(tmp_path):
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.json").write_text('{"method": "candle"}')
    for arguments, said in (
        ([str(tmp_path / "begun")], "has not finished"),
        ([str(tmp_path)], "is no folder of a run"),
        ([], "Give folders"),
    ):
        done = start("candle_tf.analyze", *arguments)
        assert done.returncode == 2
        assert said in done.stderr
        assert "Traceback" not in done.stderr


def test_older_runs_without_norms_predictions_and_logs(folders, tmp_path):
    older = read(folders[0])
    write_results(Results(**{**vars(older.results), "norms": {}}), tmp_path / "report.json")
    found = analysis.analyze([read(tmp_path)] * 2)
    said = analysis.sections_text(found)
    assert "have no norms" in said
    assert "None of these runs has a lambda" in said
    assert "no test_predictions.csv" in said


def test_runs_of_one_name_are_told_apart(tmp_path):
    folders = []
    for place, right in (("one", CANDLE), ("two", OTHER)):
        (tmp_path / place).mkdir()
        folder = make_run(tmp_path / place / "candle", right, [1.0] * 4)
        write_csv(folder / "student" / "steps.csv", {"lambda": np.full(10, right[0] / 10)})
        folders.append(folder)
    sections = analysis.analyze([read(folder) for folder in folders])
    assert sections[-1].title == "candle #1 compared with candle #2"
    text = analysis.sections_text(sections)
    # Of class a, the one that loses, the first has 9 and the second 10 of 10 right.
    (line,) = [line.split() for line in text.splitlines() if line.split()[:1] == ["a"]]
    assert {"90.0", "100.0"} <= set(line)
    rows = [line.split() for line in text.splitlines()]
    assert [row[:2] for row in rows if row[2:3] == ["lambda"]] == [
        ["candle", "#1"],
        ["candle", "#2"],
    ]


def test_runs_on_other_images_do_not_differ_in_resolutions_alone(tmp_path):
    first = read(make_run(tmp_path / "first", CANDLE, [1.0] * 4))
    other = read(make_run(tmp_path / "other", CANDLE, [1.0] * 4, calibration_resolutions=[128]))
    told = "differ in resolutions alone"
    assert told in analysis.sections_text(analysis.analyze([first, other]))
    other.results.split["hash"] = "that of other images"
    assert told not in analysis.sections_text(analysis.analyze([first, other]))


def test_a_file_of_steps_that_is_cut_off_is_named(tmp_path):
    run = make_run(tmp_path / "run", CANDLE, [1.0] * 4)
    write_csv(run / "student" / "steps.csv", {"epoch": np.ones(3), "lambda": np.ones(3)})
    path = run / "student" / "steps.csv"
    path.write_text(path.read_text()[:-6])
    with pytest.raises(UserError, match=r"steps\.csv is damaged"):
        read(run)


def test_settings_that_a_run_of_an_older_version_did_not_have_are_told(tmp_path):
    new = make_run(tmp_path / "new", CANDLE, [1.0] * 4, prior_correction="1", views=4)
    older = make_run(tmp_path / "older", OTHER, [1.0] * 4)
    for first, other in ((new, older), (older, new)):
        done = start("candle_tf.analyze", str(first), str(other))
        row = next(line.split() for line in done.stdout.splitlines() if other.name in line)
        # 4 views are the default, which the older version had too.
        assert row[2] == {"older": "prior_correction=0", "new": "prior_correction=1"}[other.name]


def test_runs_that_differ_in_a_setting_of_one_do_not_differ_in_resolutions_alone(tmp_path):
    first = make_run(tmp_path / "first", CANDLE, [1.0] * 4)
    other = make_run(tmp_path / "other", CANDLE, [1.0] * 4, calibration_resolutions=[128],
                     map_weight=0.5)  # fmt: skip
    for map_weight in (0.0, 0.5):
        runs = [analysis.read_run(each, {"map_weight": map_weight}) for each in (first, other)]
        told = "differ in resolutions alone" in analysis.sections_text(analysis.analyze(runs))
        assert told is (map_weight == 0.5)


@pytest.mark.parametrize("classes", [["d", "b", "a", "c"], ["a", "new", "b", "c", "d"]])
def test_classes_are_compared_by_their_names(classes, folders, sections, tmp_path):
    plain = make_run(tmp_path / "plain", OTHER, [1.0] * len(classes), classes=classes, teacher=None)
    found = analysis.analyze([read(folders[0]), read(plain)])[-1]
    expected = sections["candle compared with plain"]
    assert tables(found) == tables(expected)
    assert text(found) == text(expected)


def test_a_class_that_the_other_run_does_not_have_is_not_compared(folders, sections, tmp_path):
    more = ["new", *CLASSES]
    candle = make_run(tmp_path / "candle", CANDLE, [1.0] * 5, classes=more)
    found = analysis.analyze([read(candle), read(folders[1])])[-1]
    assert tables(found) == tables(sections["candle compared with plain"])
    assert "1 of 4 classes are worse" in text(found)

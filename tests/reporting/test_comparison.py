"""Runs side by side: each under its own name, with its own teacher, on one split."""

import dataclasses
import html
import json
import re

import pytest

from candle_tf.errors import UserError
from candle_tf.reporting import comparison
from candle_tf.reporting.comparison import compare, comparison_rows, run_labels
from candle_tf.reporting.plots.accuracy import accuracy_against_cost
from candle_tf.reporting.plots.style import run_color
from candle_tf.reporting.results import write_results
from tests.command import start
from tests.reporting.browser import BROWSER, check_widths, measure_page
from tests.reporting.made_run import draw_run


@pytest.fixture(scope="module")
def runs():
    shared = {"student": "reactnet_a", "width": 0.5, "teacher": "efficientnet_lite0"}
    return [
        _with_config(draw_run(6, seed=i)[0], run_dir=f"runs/{name}", **shared)
        for i, name in enumerate("abc")
    ]


def _with_config(run, **settings):
    return dataclasses.replace(run, config={**run.config, **settings})


def test_runs_alike_are_named_by_their_folders(runs):
    assert run_labels(runs) == [f"reactnet_a 0.5, candle ({name})" for name in "abc"]
    other = _with_config(runs[0], method="cross_entropy")
    assert run_labels([other, runs[1]]) == [
        "reactnet_a 0.5, cross_entropy", "reactnet_a 0.5, candle"
    ]  # fmt: skip
    assert len(set(run_labels([runs[0], runs[0]]))) == 2


def test_every_run_has_its_own_teacher(runs):
    rows = comparison_rows(runs)
    teachers = [row for row in rows if row["model"].startswith("teacher")]
    assert [row["mean"] for row in teachers] == [run.metrics["teacher"].mean for run in runs]
    assert [re.findall(r"\((\w)\)", row["model"]) for row in teachers] == [["a"], ["b"], ["c"]]
    students = rows[len(teachers) :]
    assert [row["mean"] for row in students] == [run.metrics["tflite"].mean for run in runs]
    assert [row["bytes"] for row in students] == [1_280_000] * 3


def test_a_teacher_of_all_is_there_once(runs):
    shared = dataclasses.replace(
        runs[1], metrics={**runs[1].metrics, "teacher": runs[0].metrics["teacher"]}
    )
    rows = comparison_rows([runs[0], shared])
    assert [row["model"] for row in rows[:1]] == ["teacher (calibrated, float)"]
    assert len(rows) == 3


def test_the_page_says_what_was_checked_and_differs_by_class(runs, tmp_path):
    path, figures = tmp_path / "c.html", tmp_path / "c.json"
    compare(runs[:2], str(path), str(figures))
    page = path.read_text()
    assert "on the same split" in page
    assert "0" * 12 in page
    first, second = (run.metrics["tflite"].per_class for run in runs[:2])
    names = list(runs[0].split["train_counts"])
    for name, before, after in zip(names, first, second, strict=True):
        points = f"{100 * (after - before):+.1f}".replace("-", "−")
        shown = re.escape(html.escape(name))
        cells = f'<td class="left">{shown}</td><td>[0-9,]+</td><td>{100 * before:.1f}</td>'
        assert re.search(f"{cells}<td>{re.escape(points)}</td>", page), name
    assert json.loads(figures.read_text())["split"] == "0" * 64


def _without_export(run):
    kept = {name: value for name, value in run.metrics.items() if not name.startswith("tflite")}
    return dataclasses.replace(run, metrics=kept, export={})


@pytest.mark.parametrize("exported", [[True, True], [False, True], [False, False]])
def test_costs_are_of_files_and_runs_without_one_are_named(runs, tmp_path, monkeypatch, exported):
    drawn, draw_costs = [], accuracy_against_cost

    def keep(*values, **named):
        drawn.append(draw_costs(*values, **named))
        return drawn[-1]

    monkeypatch.setattr(comparison, "accuracy_against_cost", keep)
    given = [run if file else _without_export(run) for run, file in zip(runs, exported,
                                                                        strict=False)]  # fmt: skip
    compare(given, str(tmp_path / "c.html"), None)
    places = [place for place, file in enumerate(exported) if file]
    sizes = [figure for figure in drawn if figure.axes[0].get_xlabel() == "bytes of the file"]
    assert len(drawn) == 2 * len(sizes)
    for figure in sizes:
        dots = figure.axes[0].lines
        assert [dot.get_xdata()[0] for dot in dots] == [1_280_000] * len(places)
        # Of each run as in the other figures.
        assert [dot.get_color() for dot in dots] == [run_color(place) for place in places]
    assert bool(sizes) == any(exported)
    page = html.unescape((tmp_path / "c.html").read_text())
    left_out = "; ".join(f"reactnet_a 0.5, candle ({name})" for name, file in
                         zip("ab", exported, strict=True) if not file)  # fmt: skip
    told = f"Not drawn, as they were not exported and have no file: {left_out}."
    assert (told in page) == (not all(exported))


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
@pytest.mark.parametrize(("runs_", "classes"), [(2, 2), (7, 101)])
def test_a_browser_shows_it_without_scrolling_sideways_or_errors(tmp_path, runs_, classes):
    """Also with more runs than a table has room for, long names and names without a blank."""
    made = [
        _with_config(
            draw_run(classes, seed=i)[0],
            student="reactnet_a_of_a_plugin_with_a_long_name",
            width=0.5,
            teacher="efficientnet_lite0",
            run_dir=f"{tmp_path}/a_folder_with_a_long_name_{i}",
        )
        for i in range(runs_)
    ]
    page = tmp_path / "comparison.html"
    compare(made, str(page), None)
    check_widths(measure_page(page, tmp_path))


def test_runs_on_different_splits_are_refused(runs):
    other = dataclasses.replace(runs[1], split={**runs[1].split, "hash": "1" * 64})
    with pytest.raises(UserError, match="not made on the same split"):
        compare([runs[0], other], None, None)


def test_runs_are_named_as_arguments_or_by_the_flag_and_a_missing_one_is_told(runs, tmp_path):
    for name, run in zip("ab", runs, strict=False):
        write_results(run, tmp_path / name / "report.json")
    a, b = str(tmp_path / "a"), str(tmp_path / "b")
    told = [start("candle_tf.report", *given) for given in ((a, b), (f"--runs={a},{b}",))]
    assert [done.returncode for done in told] == [0, 0], told[0].stderr
    assert told[0].stdout == told[1].stdout
    assert "reactnet_a 0.5, candle (a)" in told[0].stdout
    none = start("candle_tf.report", a, str(tmp_path / "nothing"))
    assert none.returncode == 2
    assert "nothing does not exist: give the folder of a run" in none.stderr

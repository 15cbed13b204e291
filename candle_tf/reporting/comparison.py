"""Finished runs side by side: a table, a page of images, the figures as JSON."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.reporting import html
from candle_tf.reporting.plots.accuracy import accuracy_against_cost, accuracy_bars
from candle_tf.reporting.plots.style import TEACHERS_COLOR, run_color
from candle_tf.reporting.results import TITLES, Results, accuracies
from candle_tf.reporting.run_page import draw
from candle_tf.reporting.table import ABSENT, method_cells, method_table, percent
from candle_tf.reporting.whole_results import OPERATIONS

# Settings that are told of each run.
TOLD_SETTINGS = ("method", "student", "width", "run_dir")
# Columns that a phone's width has room for.
_RUNS_A_TABLE = 5


def compare(runs: Sequence[Results], html_path: str | None, json_path: str | None) -> str:
    """The table of several runs; writes page and figures where paths are given.

    Raises:
        UserError: where two runs were not measured on the same split.
    """
    _require_one_split(runs)
    labels = run_labels(runs)
    rows = comparison_rows(runs)
    if json_path:
        content = {"split": runs[0].split["hash"], "rows": rows}
        write_atomically(Path(json_path), (json.dumps(content, indent=2) + "\n").encode())
    if html_path:
        sections = [
            html.Section("Accuracy and size", _overview(runs, rows)),
            html.Section("Accuracy against cost", _costs(runs, labels)),
            html.Section("Which classes differ", _class_differences(runs, labels)),
        ]
        html.write_report(html_path, "Comparison of runs", sections)
    return method_table(rows)


def _require_one_split(runs: Sequence[Results]) -> None:
    if len({run.split["hash"] for run in runs}) > 1:
        raise UserError(
            "The runs were not made on the same split: "
            + ", ".join(f"{run.config['run_dir']} on {run.split['hash'][:12]}" for run in runs)
            + ". Compare runs with the same data and split settings."
        )


def run_labels(runs: Sequence[Results]) -> list[str]:
    """A name for each run: its student and method; of runs alike in both, the folder or number."""
    names = [f"{_student(run)}, {run.config['method']}" for run in runs]
    folders = [Path(run.config["run_dir"]).name for run in runs]
    names = [
        f"{name} ({folder})" if number > 1 and folder else name
        for name, folder, number in zip(names, folders, _count(names), strict=True)
    ]
    return [
        f"{name} #{i}" if number > 1 else name
        for i, (name, number) in enumerate(zip(names, _count(names), strict=True), start=1)
    ]


def _count(names: Sequence[str]) -> list[int]:
    numbers = Counter(names)
    return [numbers[name] for name in names]


def _student(run: Results) -> str:
    return f"{run.config['student']} {run.config['width']:g}"


def comparison_rows(runs: Sequence[Results]) -> list[dict[str, Any]]:
    """Rows for `table.method_table`: each run's student as it is shipped, below its teacher.

    A teacher that several runs share, with the same accuracies, has one row, which says whose it
    is unless it is everybody's.
    """
    labels = run_labels(runs)
    teachers = _teachers(runs)
    with_teacher = [place for place, run in enumerate(runs) if "teacher" in run.metrics]
    rows = []
    for teacher in teachers:
        run = runs[teacher[0]]
        whose = f"teacher of {'; '.join(labels[i] for i in teacher)}"
        name = TITLES["teacher"] if teacher == with_teacher else whose
        rows.append({**run.row("teacher"), "model": name})
    for label, run in zip(labels, runs, strict=True):
        shipped = _choose_model(run)
        rows.append({**run.row(shipped), "model": f"{label} ({_kind(shipped)})"})
    return rows


def _teachers(runs: Sequence[Results]) -> list[list[int]]:
    """Places of the runs of each teacher."""
    found: dict[str, list[int]] = {}
    for place, run in enumerate(runs):
        if "teacher" in run.metrics:
            measured = json.dumps(accuracies(run.metrics["teacher"]))
            found.setdefault(f"{run.config.get('teacher')} {measured}", []).append(place)
    return list(found.values())


def _choose_model(run: Results) -> str:
    return "tflite" if "tflite" in run.metrics else "student"


def _kind(shipped: str) -> str:
    return "LCE file" if shipped == "tflite" else "in Keras, not exported"


def _overview(runs: Sequence[Results], rows: list[dict[str, Any]]) -> list[html.Item]:
    teachers = len(rows) - len(runs)
    colors = [TEACHERS_COLOR] * teachers
    colors += [run_color(place) for place in range(len(runs))]
    return [
        f"All {len(runs)} runs were made and measured on the same split: the SHA-256 in their "
        f"reports is the same, {runs[0].split['hash'][:12]}….",
        html.Table(*method_cells(rows), "Mean class accuracy, also by shot group, and bytes"),
        draw(lambda _: accuracy_bars(rows, colors=colors), "Accuracy by shot group"),
    ]


def _costs(runs: Sequence[Results], labels: Sequence[str]) -> list[html.Item]:
    """Of exported runs: the weights of a Keras model are in float32, which no file has."""
    places = [place for place, run in enumerate(runs) if _choose_model(run) == "tflite"]
    named = {labels[place]: runs[place] for place in places}
    colors = {labels[place]: run_color(place) for place in places}
    left_out = [label for label in labels if label not in named]
    told: list[html.Item] = []
    if left_out:
        told = [f"Not drawn, as they were not exported and have no file: {'; '.join(left_out)}."]
    if not named:
        return told
    mean = {label: run.metrics["tflite"].mean for label, run in named.items()}
    sizes = {label: float(run.bytes["tflite"]) for label, run in named.items()}
    items: list[html.Item] = [_draw_costs(sizes, mean, colors, "bytes of the file"), *told]
    operations = {
        label: run.export["cost"][OPERATIONS]
        for label, run in named.items()
        if "cost" in run.export
    }
    if len(operations) == len(named):
        items.append(_draw_costs(operations, mean, colors, "OPs of an image"))
        items.append("OPs are binary multiply-adds / 64 + those in float.")
    else:
        items.append("Not all reports tell their student's operations: bytes alone are drawn.")
    return items


def _draw_costs(
    costs: dict[str, float], mean: dict[str, float], colors: dict[str, str], unit: str
) -> html.Figure:
    return draw(
        lambda _: accuracy_against_cost(costs, mean, unit, colors=colors),
        f"Mean class accuracy of the runs against {unit}",
    )


def _class_differences(runs: Sequence[Results], labels: Sequence[str]) -> list[html.Item]:
    if len(runs) < 2:
        return ["There is one run: nothing to compare it with."]
    first = f"Points of accuracy above (+) or below (−) run 1, {labels[0]}, by class"
    items: list[html.Item] = [
        f"{first}. Runs: {'; '.join(f'{i} {label}' for i, label in enumerate(labels, start=1))}."
    ]
    for start in range(1, len(runs), _RUNS_A_TABLE):
        numbers = range(start, min(start + _RUNS_A_TABLE, len(runs)))
        items.append(_difference_table(runs, numbers))
    return items


def _difference_table(runs: Sequence[Results], numbers: range) -> html.Table:
    per_class = [run.metrics[_choose_model(run)].per_class for run in runs]
    tested = [
        (place, name, images)
        for place, (name, images) in enumerate(runs[0].split["train_counts"].items())
        if per_class[0][place] is not None
    ]

    def differences(place: int) -> list[float]:
        base = per_class[0][place] or 0.0
        return [100 * ((per_class[number][place] or 0.0) - base) for number in numbers]

    tested.sort(key=lambda each: min(differences(each[0])))
    rows = [
        [name, f"{images:,}", _share(per_class[0][place])]
        + [f"{points:+.1f}".replace("-", "\N{MINUS SIGN}") for points in differences(place)]
        for place, name, images in tested
    ]
    columns = ["class", "train", "1, %", *(str(number + 1) for number in numbers)]
    caption = "Differences by class, the largest loss first"
    return html.Table(columns, rows, caption, sortable=True)


def _share(share: float | None) -> str:
    return ABSENT if share is None else percent(share)

"""report.html: the page of a run, from its report.json, its logs and its test images."""

import csv
import shlex
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from candle_tf.metrics import confused_pairs, reliability, softmax
from candle_tf.reporting import html, plots
from candle_tf.reporting.data_findings import data_findings
from candle_tf.reporting.results import Results
from candle_tf.reporting.table import method_cells, percent

_EXAMPLES = 24
_REFUSED = "There is no export, as a check refused it: "
_CARD = "The model card is beside the exported files: export/model_card.md and model_card.json."


def write_run_report(
    path: Path,
    results: Results,
    *,
    labels: np.ndarray,
    logits: np.ndarray,
    pixels: np.ndarray,
    norms: dict[str, np.ndarray],
) -> None:
    """Writes the report of one run.

    Args:
        path: of report.html; the stages' logs are read from its folder.
        results: what report.json holds.
        labels: of the test images, int `[N]`.
        logits: the selected student's, float `[N, C]`.
        pixels: the test images, uint8 `[N, S, S, 3]`.
        norms: norm of each class's classifier weights, float `[C]`, by classifier.
    """
    names = list(results.split["train_counts"])
    counts = np.array(list(results.split["train_counts"].values()))
    groups = {
        group: np.array([names.index(name) for name in members])
        for group, members in results.split["groups"].items()
    }
    card = _REFUSED + results.refused if results.refused else _CARD
    sections = [
        html.Section("Results", [_results_table(results), card, _settings(results)]),
        html.Section(
            "Data",
            [
                _figure(plots.class_counts(counts, groups, names), "Class counts"),
                *data_findings(results.data),
            ],
        ),
        html.Section("Classes", _class_figures(results, counts, groups, names, norms)),
        html.Section("Training", _training_figures(path.parent)),
        html.Section("Confidence and mistakes", _mistakes(labels, logits, pixels, names)),
    ]
    config = results.config
    html.write_report(path, f"{config['method']} on {config['dataset']}", sections)


def _figure(figure: plots.Figure, alt: str) -> html.Figure:
    return html.Figure(plots.to_png(figure), alt)


def _results_table(results: Results) -> html.Table:
    columns, rows = method_cells(results.rows())
    caption = (
        f"Epoch {results.selected_epoch} of {results.last_epoch} was selected on the validation "
        "set; the test set was only used for these results."
    )
    return html.Table(columns, rows, caption)


def _settings(results: Results) -> html.Code:
    flags = [f"--{name}={_flag(value)}" for name, value in results.config.items() if value != ""]
    return html.Code("\n".join(shlex.quote(flag) for flag in flags))


def _flag(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)


def _class_figures(
    results: Results,
    counts: np.ndarray,
    groups: dict[str, np.ndarray],
    names: Sequence[str],
    norms: dict[str, np.ndarray],
) -> list[html.Figure | str | html.Table | html.Code]:
    student = results.metrics["student"]
    worst = f"Worst class: {student.worst_class}, {percent(student.worst_accuracy)} %."
    return [
        _figure(plots.accuracy_bars(results.rows()), "Accuracy by shot group"),
        worst,
        _figure(
            plots.per_class_accuracy(student.per_class, counts, groups, names),
            "Accuracy of each class",
        ),
        _figure(plots.weight_norms(norms, counts), "Classifier weight norms, head to tail"),
    ]


def _training_figures(folder: Path) -> list[html.Figure | str | html.Table | html.Code]:
    figures: list[html.Figure | str | html.Table | html.Code] = []
    for stage in ("calibrate", "student"):
        history = _columns(folder / stage / "history.csv")
        series = {name: values for name, values in history.items() if _is_curve(name)}
        if series:
            title = f"Stage {stage!r}: training and validation by epoch"
            figures.append(_figure(plots.training_curves(series, title), title))
    steps = _columns(folder / "student" / "steps.csv")
    if "lambda" in steps:
        curves = plots.balance_curves(steps["lambda"], steps["kl"], steps["fs"], unit="step")
        figures.append(_figure(curves, "Lambda and both losses by step"))
    return figures


def _is_curve(name: str) -> bool:
    return name not in ("epoch", "seconds")


def _columns(path: Path) -> dict[str, list[float]]:
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: [float(row[name]) for row in rows] for name in rows[0]} if rows else {}


def _mistakes(
    labels: np.ndarray, logits: np.ndarray, pixels: np.ndarray, names: Sequence[str]
) -> list[html.Figure | str | html.Table | html.Code]:
    bins = reliability(softmax(logits), labels)
    predicted = logits.argmax(axis=1)
    pairs = confused_pairs(labels, predicted, names)
    # Evenly over the test set, so that head and tail are both seen.
    shown = np.linspace(0, len(labels) - 1, min(_EXAMPLES, len(labels))).astype(int)
    return [
        _figure(plots.reliability_diagram(bins), "Reliability diagram of the student"),
        html.Table(
            ["true class", "predicted as", "images", "% of the class"],
            [[p.true, p.predicted, str(p.images), percent(p.share)] for p in pairs],
            caption="Most frequent confusions",
            left=2,
        ),
        _figure(
            plots.example_grid(
                pixels[shown],
                [names[label] for label in labels[shown]],
                [names[label] for label in predicted[shown]],
            ),
            "Test images with true and predicted class",
        ),
    ]

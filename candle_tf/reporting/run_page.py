"""report.html: the page of a run, from its report.json, its logs and its test images.

It tells in this order: what to ship and how good it is; which classes fail; whether the tail is
better; whether the training converged; what it costs on a device; the data; the settings.
"""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from candle_tf.metrics import confusion_matrix, reliability, softmax, untested_sentence
from candle_tf.reporting import html
from candle_tf.reporting.class_table import class_table
from candle_tf.reporting.csv_columns import FIRST_STAGE, read_columns, read_student_steps
from candle_tf.reporting.data_findings import data_findings
from candle_tf.reporting.mistakes import confident_mistakes, mistakes_by_class
from candle_tf.reporting.plots.accuracy import accuracy_bars, reliability_diagram
from candle_tf.reporting.plots.classes import (
    accuracy_by_class_size,
    class_counts,
    confusion_heatmap,
    weight_norms,
)
from candle_tf.reporting.plots.style import narrow_figures, to_png
from candle_tf.reporting.plots.training import balance_curves, training_curves
from candle_tf.reporting.results import TITLES, Results, accuracies, untested_classes
from candle_tf.reporting.shipping import (
    SHIPPABLE,
    STUDENT,
    is_export_off,
    shipping_sentence,
    weaker_teacher_sentence,
)
from candle_tf.reporting.table import human_bytes, method_cells, percent

_REFUSED = "There is no export, as a check refused it: "
_CARD = "The model card is beside the exported files: export/model_card.md and model_card.json."
_GROUPS = (
    "Mean is the mean over classes of the accuracy on each class. Shot groups are by training "
    "images: many-shot classes have more than 100, medium-shot 20 to 100, few-shot fewer than 20."
)
# Of the confusion matrix, in a wide and in a narrow window.
_CONFUSED, _CONFUSED_NARROW = 20, 8


@dataclass(frozen=True)
class TestImages:
    """The test set and what the student made of it.

    Attributes:
        labels: int `[N]`.
        logits: the selected student's, float `[N, C]`.
        pixels: uint8 `[N, S, S, 3]`.
    """

    __test__ = False  # no test, whatever its name says to pytest

    labels: np.ndarray
    logits: np.ndarray
    pixels: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """Predicted classes, int `[N]`."""
        return self.logits.argmax(axis=1)


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
    tested = TestImages(labels, logits, pixels)
    sections = [
        html.Section("What to ship, and how good it is", _shipping(results)),
        html.Section("Which classes fail", _failures(results, tested, names)),
        html.Section("Is the tail better", _tail(results, counts, norms)),
        html.Section("Did it converge", _training(results, path.parent)),
        html.Section("Can its confidence be trusted", _confidence(tested)),
        html.Section("Cost on a device", _costs(results)),
        html.Section("Data", _data(results, counts, names)),
        html.Section("Settings", [html.Folded("All settings, as flags", [_settings(results)])]),
    ]
    config = results.config
    html.write_report(path, f"{config['method']} on {config['dataset']}", sections)


def draw(figure: Callable[[bool], Figure], alt: str) -> html.Figure:
    """A figure in two versions, for wide and for narrow windows.

    Args:
        figure: draws it; told whether the window is narrow.
        alt: what a reader who cannot see it should know.
    """
    wide = to_png(figure(False))
    with narrow_figures():
        narrow = to_png(figure(True))
    return html.Figure(wide, alt, narrow=narrow)


def _shipping(results: Results) -> list[html.Item]:
    kinds = [kind for kind in ("teacher", *SHIPPABLE) if kind in results.metrics]
    if STUDENT not in kinds:
        kinds.append("student")
    rows = [
        {"model": TITLES[k], **accuracies(results.metrics[k]), "bytes": results.bytes.get(k)}
        for k in kinds
    ]
    columns, cells = method_cells(rows)
    reason = f": {results.selection}" if results.selection else ""
    caption = (
        f"Of the {results.split['test']:,} test images, which were used for these results only. "
        f"Epoch {results.selected_epoch} of {results.last_epoch} is the student's{reason}."
    )
    if results.prior_correction:
        given = results.config.get("prior_correction", "")
        caption += (
            " Its classifier is corrected for the classes that it prefers, with strength "
            f"{results.prior_correction:g} (--prior_correction={given})."
        )
    every = html.Folded("All models that were measured", [_all_models(results)])
    sentences = (shipping_sentence(results), weaker_teacher_sentence(results))
    told = [sentence for sentence in sentences if sentence]
    untested = untested_sentence(untested_classes(results))
    return [
        *told,
        html.Table(columns, cells, caption),
        *_top_5(results, kinds),
        *([f"{untested}."] if untested else []),
        _GROUPS,
        *_files(results),
        draw(lambda _: accuracy_bars(rows), "Accuracy over all classes and by shot group"),
        every,
    ]


def _top_5(results: Results, kinds: Sequence[str]) -> list[html.Item]:
    """One line, where there are more than ten classes."""
    known = [(TITLES[kind], results.metrics[kind].top_5) for kind in kinds]
    told = [f"{title} {percent(value)} %" for title, value in known if value is not None]
    return [f"Top-5, mean over classes: {', '.join(told)}."] if told else []


def _files(results: Results) -> list[html.Item]:
    if results.refused:
        return [_REFUSED + results.refused]
    # Where none were asked for, the first sentence says so.
    return [] if is_export_off(results) else [_CARD]


def _all_models(results: Results) -> html.Table:
    columns, rows = method_cells(results.rows())
    return html.Table(columns, rows)


def _failures(results: Results, tested: TestImages, names: Sequence[str]) -> list[html.Item]:
    matrix = confusion_matrix(tested.labels, tested.predicted, len(names))
    student = results.metrics["student"]
    worst = f"Worst class: {student.worst_class}, {percent(student.worst_accuracy)} %."
    return [
        worst,
        class_table(results, matrix),
        draw(
            lambda narrow: confusion_heatmap(
                matrix, names, _CONFUSED_NARROW if narrow else _CONFUSED
            ),
            "Shares of each class's test images by predicted class",
        ),
        confident_mistakes(tested.labels, tested.logits, tested.pixels, names),
        mistakes_by_class(tested.labels, tested.logits, tested.pixels, names),
    ]


def _tail(results: Results, counts: np.ndarray, norms: dict[str, np.ndarray]) -> list[html.Item]:
    models: dict[str, Sequence[float | None]] = {
        name: results.metrics[name].per_class
        for name in ("teacher", "student")
        if name in results.metrics
    }
    return [
        draw(
            lambda _: accuracy_by_class_size(models, counts),
            "Accuracy of each class against its training images, teacher and student",
        ),
        draw(
            lambda _: weight_norms(norms, counts),
            "Classifier weight norms, from the class with most images to that with fewest",
        ),
    ]


def _training(results: Results, folder: Path) -> list[html.Item]:
    items: list[html.Item] = []
    for stage, title in _stage_titles(folder).items():
        history = _columns(read_columns(folder / stage / "history.csv"))
        series = {name: values for name, values in history.items() if _is_curve(name)}
        if series:
            selected = results.selected_epoch if stage == "student" else None
            items.append(_curves(series, f"{title}: training and validation by epoch", selected))
    steps = _columns(read_student_steps(folder))
    if "lambda" in steps:
        # Reports of older versions have neither, and the losses of these defaults.
        losses = {
            "logit_loss": results.config.get("logit_loss", "kl"),
            "feature_loss": results.config.get("feature_loss", "cosine"),
        }
        items.append(
            draw(
                lambda _: balance_curves(
                    steps["lambda"], steps["kl"], steps["fs"], **losses, unit="step"
                ),
                "Lambda and both losses by step",
            )
        )
    return items or ["The logs of the training are not in the run folder."]


def _stage_titles(folder: Path) -> dict[str, str]:
    """What the trainings are called, by the folder with their logs."""
    teacher = {"calibrate": "The teacher's classifier"}
    if not (folder / FIRST_STAGE).exists():
        return {"student": "The student"} | teacher
    return {
        FIRST_STAGE: "The student (first stage)",
        "student": "The classifier (second stage)",
    } | teacher


def _curves(series: dict[str, list[float]], title: str, selected_epoch: int | None) -> html.Figure:
    return draw(lambda _: training_curves(series, title, selected_epoch), title)


def _is_curve(name: str) -> bool:
    return name not in ("epoch", "seconds")


def _columns(read: dict[str, np.ndarray]) -> dict[str, list[float]]:
    return {name: values.tolist() for name, values in read.items()}


def _confidence(tested: TestImages) -> list[html.Item]:
    bins = reliability(softmax(tested.logits), tested.labels)
    return [
        draw(lambda _: reliability_diagram(bins), "Reliability diagram of the student"),
    ]


def _costs(results: Results) -> list[html.Item]:
    cost, latency = results.export.get("cost", {}), results.export.get("latency", {})
    rows = [
        [TITLES[kind], human_bytes(results.bytes[kind])]
        for kind in SHIPPABLE
        if kind in results.bytes
    ]
    items: list[html.Item] = [html.Table(["file", "size"], rows)] if rows else []
    if cost:
        operations = [[name, f"{value:,.0f}"] for name, value in cost.items()]
        items.append(html.Table(["of one image", "number"], operations))
    if STUDENT in latency:
        items.append(
            f"The student took {latency[STUDENT]['ratio']:.2f} of the time of its float32 "
            f"reference model, measured in turn on this machine: {latency['machine']}. "
            "Measure on the device itself: python -m tools.bench_latency RUN_DIR."
        )
    return items or ["Nothing was exported."]


def _data(results: Results, counts: np.ndarray, names: Sequence[str]) -> list[html.Item]:
    groups = {
        group: np.array([names.index(name) for name in members])
        for group, members in results.split["groups"].items()
    }
    return [
        draw(lambda narrow: class_counts(counts, groups, None if narrow else names),
             "Training images of each class"),
        *data_findings(results.data),
    ]  # fmt: skip


def _settings(results: Results) -> html.Code:
    flags = [f"--{name}={_flag(value)}" for name, value in results.config.items() if value != ""]
    return html.Code("\n".join(shlex.quote(flag) for flag in flags))


def _flag(value: object) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)

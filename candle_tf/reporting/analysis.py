"""What finished runs say about the paper's questions: text, tables and figures.

runs = [read_run(Path(name), earlier) for name in ("runs/candle", "runs/cross_entropy")]
sections = analyze(runs)             # the first run is compared with each of the others
print(sections_text(sections))
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from candle_tf.reporting import html
from candle_tf.reporting.adversary import adversary_figures
from candle_tf.reporting.bootstrap import paired_difference
from candle_tf.reporting.csv_columns import read_columns, read_student_steps
from candle_tf.reporting.image_predictions import TEST as PREDICTIONS
from candle_tf.reporting.image_predictions import ImagePredictions, read_image_predictions
from candle_tf.reporting.plots.classes import weight_norms
from candle_tf.reporting.plots.runs import gains_by_class_size, lambda_curves
from candle_tf.reporting.plots.style import to_png
from candle_tf.reporting.results import Results
from candle_tf.reporting.table import SHOT_GROUPS, text_table
from candle_tf.reporting.whole_results import read_whole_results

STUDENT, TEACHER = "student", "teacher"
# Settings that say where a run is, and not what it is.
_PLACES = ("run_dir", "cache_dir", "data_dir")
_SHOWN_CLASSES = 10


@dataclass(frozen=True)
class Run:
    """A finished run.

    Attributes:
        name: of its folder.
        results: its report.json.
        settings: by flag name; those that the run's version did not have are what they were then.
        predictions: of its test images; None in runs of older versions.
        steps: columns of the student's steps.csv, float `[S]` each; of a method with two stages
            those of the first.
        calibration_seconds: of all epochs of the calibration; 0 without one.
    """

    name: str
    results: Results
    settings: Mapping[str, Any]
    predictions: ImagePredictions | None
    steps: dict[str, np.ndarray]
    calibration_seconds: float = 0.0

    @property
    def counts(self) -> np.ndarray:
        """Training images of each class, int `[C]`."""
        return np.array(list(self.results.split["train_counts"].values()))

    @property
    def class_names(self) -> list[str]:
        """C names, in the run's own order."""
        return list(self.results.split["train_counts"])

    def accuracies_of(self, names: Sequence[str]) -> np.ndarray:
        """The student's accuracy on classes.

        Args:
            names: C classes, in any order.

        Returns:
            float `[C]`; nan for a class that the run does not have, or without test images.
        """
        per_class = np.array(self.results.metrics[STUDENT].per_class, float)
        known = dict(zip(self.class_names, per_class, strict=True))
        return np.array([known.get(name, np.nan) for name in names])


def read_run(folder: Path, earlier: Mapping[str, Any]) -> Run:
    """Reads a run's folder.

    Args:
        folder: of the run.
        earlier: what a setting was before there was such a setting, by flag name.

    Raises:
        UserError: where the run has not finished, or a file is damaged.
    """
    predictions = folder / PREDICTIONS
    results = read_whole_results(folder / "report.json", settings=("method",))
    seconds = read_columns(folder / "calibrate" / "history.csv").get("seconds", 0.0)
    return Run(
        folder.resolve().name,
        results,
        {**earlier, **results.config},
        read_image_predictions(predictions) if predictions.exists() else None,
        read_student_steps(folder),
        float(np.sum(seconds)),
    )


def analyze(runs: Sequence[Run]) -> list[html.Section]:
    """What these runs say about each question; one without data says that it has none.

    Args:
        runs: at least one; the first is compared with each of the others. Of those with one name
            each is told by its number, too.
    """
    runs = _with_names_of_their_own(runs)
    sections = [
        html.Section("Runs", [_settings_table(runs)]),
        html.Section("Classifier weights, head to tail", list(_norms(runs))),
        html.Section("Lambda during training", list(_lambdas(runs))),
        html.Section("The adversary that sees the class", list(_adversaries(runs))),
        html.Section("Resolutions of the teacher", list(_resolutions(runs))),
    ]
    for other in runs[1:]:
        title = f"{runs[0].name} compared with {other.name}"
        sections.append(html.Section(title, list(_comparison(runs[0], other))))
    return sections


def _with_names_of_their_own(runs: Sequence[Run]) -> list[Run]:
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} #{number}") if names.count(run.name) > 1 else run
        for number, run in enumerate(runs, start=1)
    ]


def sections_text(sections: Sequence[html.Section]) -> str:
    """The sections for a terminal, without their figures."""
    parts = []
    for section in sections:
        parts.append(f"{section.title}\n{'=' * len(section.title)}")
        for item in section.items:
            if isinstance(item, html.Table):
                rows = [dict(zip(item.columns, row, strict=True)) for row in item.rows]
                table = text_table(rows, list(item.columns), left=item.columns[: item.left])
                parts.append(f"{item.caption}\n\n{table}" if item.caption else table)
            elif isinstance(item, str):
                parts.append(item)
    return "\n\n".join(parts)


def different_settings(first: Run, other: Run) -> dict[str, tuple[object, object]]:
    """Settings, but for folders, in which two runs differ: name -> value of each.

    The value is None where a run has none: for a setting that there is no longer.
    """
    one, two = first.settings, other.settings
    names = [name for name in {**one, **two} if name not in _PLACES]
    pairs = {name: (one.get(name), two.get(name)) for name in names}
    return {name: pair for name, pair in pairs.items() if pair[0] != pair[1]}


def _settings_table(runs: Sequence[Run]) -> html.Table:
    rows = []
    for run in runs:
        changed = different_settings(runs[0], run)
        told = ", ".join(f"{name}={_plain(after)}" for name, (_, after) in changed.items())
        method, mean = run.results.config["method"], _percent(run.results.metrics[STUDENT].mean)
        rows.append([run.name, method, told or "–", mean])
    columns = ["run", "method", "settings unlike the first run's", "mean %"]
    return html.Table(columns, rows, left=3)


def _plain(value: object) -> str:
    if value is None:
        return "–"
    return "/".join(map(str, value)) if isinstance(value, list) else str(value)


# --- Weight norms: under which optimizer are the tail's larger?


def norm_exponent(norms: np.ndarray, counts: np.ndarray) -> float:
    """The a of norm ~ n^a, by least squares of the logarithms; nan where all n are equal.

    Args:
        norms: of each class's weights, float `[C]`, at least 0; classes with 0 are left out.
        counts: training images of each class, int `[C]`, at least 1.

    Returns:
        Above 0 where the head has the larger weights, below 0 where the tail has.
    """
    sizes, lengths = np.asarray(counts, float), np.asarray(norms, float)
    has_weights = lengths > 0
    return _slope(np.log(sizes[has_weights]), np.log(lengths[has_weights]))


def _norms(runs: Sequence[Run]) -> Iterator[str | html.Table | html.Figure]:
    rows, shown, left_out = [], {}, []
    for run in runs:
        for model, norms in run.results.norms.items():
            without = [name for name, norm in zip(run.class_names, norms, strict=True) if norm == 0]
            if without:
                left_out.append(f"{len(without)} of {run.name}, {model} ({_some(without)})")
            exponent = norm_exponent(np.array(norms), run.counts)
            means = [_group_mean(run, np.array(norms), group) for group in SHOT_GROUPS]
            optimizer = run.settings["optimizer"] if model == STUDENT else "adam"
            rows.append([run.name, model, optimizer, *means, _exponent(exponent)])
            if np.array_equal(run.counts, runs[0].counts):
                shown[f"{run.name}, {model}"] = norms
    if not rows:
        yield "These reports have no norms. Start a run again to write its report again."
        return
    yield (
        "Mean norm of the classifier's weights by shot group, and the exponent a of norm ~ n^a: "
        "above 0 the head has the larger weights, below 0 the tail."
    )
    if left_out:
        yield f"Classes whose weights are all 0 are left out of a: {'; '.join(left_out)}."
    yield html.Table(["run", "model", "optimizer", *SHOT_GROUPS, "a"], rows, left=3)
    figure = weight_norms(shown, runs[0].counts)
    yield html.Figure(to_png(figure), "Classifier weight norms, head to tail")


def _some(names: Sequence[str]) -> str:
    further = len(names) - _SHOWN_CLASSES
    shown = ", ".join(names[:_SHOWN_CLASSES])
    return f"{shown} and {further} more" if further > 0 else shown


def _exponent(value: float) -> str:
    return f"{value:+.3f}" if np.isfinite(value) else "–"


def _group_mean(run: Run, values: np.ndarray, group: str) -> str:
    names = run.class_names
    members = [names.index(name) for name in run.results.split["groups"].get(group, [])]
    return f"{np.mean(values[members]):.2f}" if members else "–"


# --- Lambda


def _lambdas(runs: Sequence[Run]) -> Iterator[str | html.Table | html.Figure]:
    rows, curves = [], {}
    for run in runs:
        for name, values in run.steps.items():
            if name.startswith("lambda") and not name.startswith("lambda_sum"):
                # Means of a tenth of the training each.
                tenths = [part.mean() for part in np.array_split(values, 10) if len(part)]
                middle = tenths[len(tenths) // 2]
                figures = (tenths[0], middle, tenths[-1], values.min(), values.max())
                cells = [f"{x:.2f}" for x in figures]
                rows.append([run.name, name, *cells, f"{values.mean():.3f}"])
                curves[f"{run.name}, {name}"] = values
    if not rows:
        yield "None of these runs has a lambda: only --method=candle and candle_crt do."
        return
    yield (
        "Weight of the logit loss: means over the first, middle and last tenth of the steps. A run "
        "whose steps.csv has one column `lambda` gives all classes the same; `lambda_rare`, "
        "`lambda_medium` and `lambda_frequent` are those of a class at the low end, in the middle "
        "and at the high end of the range of the log class size, which are no shot groups. "
        "With --balance_permute_sizes these are not the classes' own sizes. A training with the "
        "mean as a constant tells whether lambda has to move, and one with `--balance_replay` and "
        "the run what the adversary's learning is worth: see docs/method.md."
    )
    columns = ["run", "column", "first tenth", "middle", "last tenth", "lowest", "highest", "mean"]
    yield html.Table(columns, rows, left=2)
    figure = lambda_curves(curves)
    yield html.Figure(to_png(figure), "Lambda during training")


# --- Adversary


def _adversaries(runs: Sequence[Run]) -> Iterator[str | html.Table]:
    rows = []
    for run in runs:
        config = run.settings
        if config.get("balance") != "class_adversarial":
            continue
        found = adversary_figures(
            run.steps, tau=float(config["balance_tau"]), prior=float(config["balance_prior"])
        )
        if found is not None:
            each = (found.gap, found.lowest, found.highest, found.rare_range,
                    found.frequent_range, found.difference)  # fmt: skip
            rows.append([run.name, *(f"{value:.3f}" for value in each)])
    if not rows:
        yield "None of these runs tells: only --balance=class_adversarial does."
        return
    yield (
        "Well-posed: after a tenth of the steps the mean gap between lambda and the best lambda of "
        "three groups of classes is below 0.05, and every lambda within 0.05 and 0.95. Moves: the "
        "ranges over the training are above 0.1, and the difference between frequent and rare "
        "classes in the last tenth above 0.05."
    )
    columns = ["run", "gap", "lowest", "highest", "range, rare", "range, frequent", "difference"]
    yield html.Table(columns, rows, left=1)


# --- Resolutions


def _resolutions(runs: Sequence[Run]) -> Iterator[str | html.Table]:
    taught = [run for run in runs if TEACHER in run.results.metrics]
    if not taught:
        yield "None of these runs has a teacher."
        return
    yield (
        "Pixels that the teacher reads of one view, over those of the first run. Features are "
        "cached: they are computed once for each view, and the calibration reads them from there."
    )
    first = taught[0]
    rows = [
        [
            run.name,
            _plain(run.settings["calibration_resolutions"]),
            f"{_pixels(run) / _pixels(first):.2f}",
            f"{run.calibration_seconds:.0f}",
            _percent(run.results.metrics[TEACHER].mean),
            _percent(run.results.metrics[STUDENT].mean),
        ]
        for run in taught
    ]
    columns = ["run", "resolutions", "pixels", "calibration s", "teacher %", "student %"]
    yield html.Table(columns, rows, left=2)
    for run in taught[1:]:
        if _differ_in_resolutions_alone(first, run):
            gains = [
                first.results.metrics[model].mean - run.results.metrics[model].mean
                for model in (TEACHER, STUDENT)
            ]
            yield (
                f"{first.name} and {run.name} differ in resolutions alone: teacher "
                f"{_points(gains[0])} points, student {_points(gains[1])} points."
            )


def _differ_in_resolutions_alone(first: Run, other: Run) -> bool:
    same_images = first.results.split["hash"] == other.results.split["hash"]
    changed = set(different_settings(first, other))
    return same_images and changed == {"calibration_resolutions"}


def _pixels(run: Run) -> int:
    return sum(side**2 for side in run.settings["calibration_resolutions"])


# --- Two runs, image by image


@dataclass(frozen=True)
class Changes:
    """Test images by which of two students is right.

    Attributes:
        both, first_only, other_only, neither: numbers of images.
    """

    both: int
    first_only: int
    other_only: int
    neither: int


def count_changes(first: np.ndarray, other: np.ndarray) -> Changes:
    """Counts images.

    Args:
        first: whether the first student is right, bool `[N]`.
        other: the same of the other.
    """
    return Changes(
        int((first & other).sum()),
        int((first & ~other).sum()),
        int((~first & other).sum()),
        int((~first & ~other).sum()),
    )


def gain_per_decade(gains: np.ndarray, counts: np.ndarray) -> float:
    """How much a class's gain changes where it has ten times the training images.

    Args:
        gains: of each class, float `[C]`; nan where there is none.
        counts: training images of each class, int `[C]`, at least 1.

    Returns:
        Below 0 where rare classes gain more; nan where all counts are equal.
    """
    known = ~np.isnan(gains)
    return _slope(np.log10(np.asarray(counts, float)[known]), gains[known])


def _comparison(first: Run, other: Run) -> Iterator[str | html.Table | html.Figure]:
    ours, theirs = first.predictions, other.predictions
    if ours is None or theirs is None:
        yield "One of the runs has no test_predictions.csv. Start it again to write it."
        return
    if (ours.images, ours.classes) != (theirs.images, theirs.classes):
        yield "The runs were not measured on the same test images, so they are not compared."
        return
    labels = np.array(ours.classes)
    right, right_too = ours.correct(STUDENT), theirs.correct(STUDENT)
    yield _changes_table(first, labels, right, right_too)
    names = first.class_names
    gains = first.accuracies_of(names) - other.accuracies_of(names)
    slope = gain_per_decade(gains, first.counts)
    yield (
        f"With ten times the training images a class gains {_percent(abs(slope))} points "
        f"{'less' if slope < 0 else 'more'}."
        if np.isfinite(slope)
        else "All classes have the same number of training images."
    )
    figure = gains_by_class_size(gains, first.counts)
    yield html.Figure(to_png(figure), "Gain of each class against its training images")
    yield from _losing_classes(first, other, gains)


def _changes_table(
    run: Run, labels: np.ndarray, right: np.ndarray, right_too: np.ndarray
) -> html.Table:
    groups = {"all": np.ones(len(labels), bool)} | {
        group: np.isin(labels, run.results.split["groups"][group])
        for group in SHOT_GROUPS
        if group in run.results.split["groups"]
    }
    rows = []
    for name, of_group in groups.items():
        if not of_group.any():
            continue
        found = paired_difference(right[of_group], right_too[of_group], labels[of_group])
        changes = count_changes(right[of_group], right_too[of_group])
        counted = [changes.both, changes.first_only, changes.other_only, changes.neither]
        interval = f"{100 * found.low:+.1f} to {100 * found.high:+.1f}"
        rows.append([name, *map(str, counted), _points(found.mean), interval])
    columns = ["classes", "both right", "first alone", "other alone", "neither", "points", "95 %"]
    caption = "Test images by which student is right, and the difference in mean class accuracy"
    return html.Table(columns, rows, caption)


def _losing_classes(first: Run, other: Run, gains: np.ndarray) -> Iterator[str | html.Table]:
    names = first.class_names
    own, others = first.accuracies_of(names), other.accuracies_of(names)
    losing = [c for c in np.argsort(gains, kind="stable") if gains[c] < 0]
    tested = int((~np.isnan(gains)).sum())
    yield f"{len(losing)} of {tested} classes are worse than with {other.name}."
    taught = first.results.metrics.get(TEACHER)
    of_teacher = np.array(taught.per_class, float) if taught else np.full(len(gains), np.nan)
    if taught and losing:
        weak = int(np.sum(of_teacher[losing] < others[losing]))
        yield (
            f"In {weak} of them the teacher itself is worse than {other.name}. The teacher's mean "
            f"accuracy is {_percent(_mean(of_teacher[losing]))} % on classes that lose and "
            f"{_percent(_mean(np.delete(of_teacher, losing)))} % on the others."
        )
    rows = [
        [
            names[c],
            str(first.counts[c]),
            _percent(own[c]),
            _percent(others[c]),
            _percent(of_teacher[c]),
        ]
        for c in losing[:_SHOWN_CLASSES]
    ]
    if rows:
        columns = ["class", "training images", f"{first.name} %", f"{other.name} %", "teacher %"]
        yield html.Table(columns, rows, "Classes that lose most")


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """Of the least-squares line; nan where all x are equal."""
    deviations = x - x.mean() if len(x) else x
    spread = float(deviations @ deviations)
    return float(deviations @ y) / spread if spread > 0 else float("nan")


def _mean(values: np.ndarray) -> float:
    """Of the values that are not nan; nan where there is none."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f}" if np.isfinite(fraction) else "–"


def _points(difference: float) -> str:
    return f"{100 * difference:+.1f}"

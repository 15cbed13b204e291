"""Which file to ship: students of several runs, and teachers in int8, by size, time and accuracy.

    python -m tools.device_table runs/a runs/b --plot=devices.png --csv=devices.csv

Each run gives its student's two files and, where it was written, its calibrated teacher in int8; of
a file of a run (runs/c/export/teacher.int8.tflite) that one alone.
All are timed in turn in one process each, on one thread, on this machine; accuracies are those that
the run measured of the file itself on the test set. Times are relative to the first float32
reference model, or to the first file where there is none. Files of the same content are told once
for each split. Accuracies of runs on several splits may be of other test images: the table says so.
"""

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from absl import flags

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.files import (
    read_json_object,
    sha256_of_file,
    write_atomically,
    write_each,
)
from candle_tf.output_files import require_output_files
from candle_tf.reporting.results import Results, accuracies, read_results
from candle_tf.reporting.table import SHOT_GROUPS, human_bytes, percent, text_table

# By key of report.json: what the file is called, and what it is.
FILES = {
    "tflite": ("student.lce.tflite", "binary student"),
    "tflite_float": ("student.float.tflite", "its float32 reference"),
    "teacher_int8": ("teacher.int8.tflite", "teacher in int8"),
}
_COLUMNS = ("run", "file", "px", "bytes", "OPs", "time", "range", "mean %", *SHOT_GROUPS, "split")
_SHOWN = ("run", "file", "px", "size", "OPs", "time", "range", "mean %", *SHOT_GROUPS)
# As in the figures of a run.
_COLORS = {"tflite": "#0072B2", "tflite_float": "#56B4E9", "teacher_int8": "#CC79A7"}
_HASH_DIGITS = 12  # of a split, that are shown
_COST = "OPs (binary multiply-adds / 64 + those in float)"


@dataclass(frozen=True)
class DeviceFile:
    """A file that can be shipped.

    Attributes:
        run: name of the run's folder.
        kind: a key of `FILES`.
        path: of the file.
        side: of its input in pixels.
        split: hash of the run's split; "" where the report has none.
        operations: OPs of an image; None where they were not counted.
        accuracies: by "mean" and shot group, fractions.
    """

    run: str
    kind: str
    path: Path
    side: int
    split: str
    operations: float | None
    accuracies: dict[str, float]


def files_of(given: Sequence[Path]) -> list[DeviceFile]:
    """The files of finished runs, each content once for each split.

    Args:
        given: folders of runs, or files in their export/.

    Raises:
        UserError: where a run has not finished or has exported no such file, and for a file that
            is none of these, or not the one that its run reports.
    """
    found: dict[tuple[str, str], DeviceFile] = {}
    for place in given:
        if not place.exists():
            raise UserError(f"There is no {place}: give a run's folder, or a file of its export.")
        for file in _files_at(place):
            found.setdefault((sha256_of_file(file.path), file.split), file)
    return list(found.values())


def _files_at(place: Path) -> list[DeviceFile]:
    """The files that a place stands for, at least one."""
    names = [name for name, _ in FILES.values()]
    if place.is_file() and (place.name not in names or place.resolve().parent.name != "export"):
        raise UserError(f"{place} is none of {', '.join(names)} in the export/ of a run.")
    folder = place.resolve().parents[1] if place.is_file() else place
    results = read_results(folder / "report.json")
    there = [
        _file(folder, kind, folder / "export" / name, results)
        for kind, (name, _) in FILES.items()
        if kind in results.metrics and (folder / "export" / name).is_file()
        if place.is_dir() or place.name == name
    ]
    if not there:
        raise UserError(
            f"{place}: the run has exported no TFLite file of this kind, or not measured it. "
            f"Give runs that have one of {', '.join(names)}."
        )
    return there


def _refuse_other_file(path: Path, measured: Mapping[str, float]) -> None:
    """Refuses a file that is not the one whose accuracies the run reports.

    A run that is continued writes its files before it reports them.
    """
    sidecar = path.with_name("student.json")
    if not sidecar.is_file():
        return
    told = read_json_object(sidecar, "Start the run again to write it.").get("files")
    file = told.get(path.name) if isinstance(told, dict) else None
    if not isinstance(file, dict):
        return
    if file.get("sha256") != sha256_of_file(path) or file.get("accuracy") != measured:
        raise UserError(
            f"{path} is not the file that {path.parents[1] / 'report.json'} tells the accuracy of: "
            "the run was continued, or the file replaced. Start the run again, which finishes it."
        )


def _refuse_other_teacher(path: Path, told: Mapping[str, Any]) -> None:
    """Refuses a teacher's file that is not the one that was measured.

    Older runs kept its size alone.
    """
    has_sha256 = "sha256" in told
    found = sha256_of_file(path) if has_sha256 else path.stat().st_size
    if found != told.get("sha256" if has_sha256 else "bytes", found):
        raise UserError(
            f"{path} is not the file that {path.parents[1] / 'report.json'} tells the accuracy of "
            f"({'SHA-256' if has_sha256 else 'its size'} differs): restore it, or start the run "
            "again in a folder of its own."
        )


def _file(folder: Path, kind: str, path: Path, results: Results) -> DeviceFile:
    is_teacher = kind == "teacher_int8"
    measured = results.metrics[kind]
    if is_teacher:
        _refuse_other_teacher(path, results.export[kind])
    else:
        _refuse_other_file(path, {"mean": measured.mean, **measured.groups})
    return DeviceFile(
        run=folder.resolve().name,
        kind=kind,
        path=path,
        side=results.export[kind]["resolution"] if is_teacher else results.config["image_size"],
        split=results.split.get("hash", ""),
        operations=results.export.get("cost", {}).get(_COST) if kind == "tflite" else None,
        accuracies=accuracies(results.metrics[kind]),
    )


def measure_files(files: Sequence[DeviceFile], rounds: int) -> list[dict[str, Any]]:
    """A row for each file, with its time relative to the first float32 reference model.

    Args:
        files: of `files_of`.
        rounds: in which all files take turns.

    Raises:
        UserError: for a file that cannot be run.
    """
    from tools.benchmarks.tflite_files import time_files

    names = [f"{number} {file.run}" for number, file in enumerate(files)]
    kinds = [file.kind for file in files]
    baseline = names[kinds.index("tflite_float") if "tflite_float" in kinds else 0]
    paths = {name: file.path for name, file in zip(names, files, strict=True)}
    times = time_files(paths, baseline, threads=1, rounds=rounds)
    return [
        {
            "run": file.run,
            "file": FILES[file.kind][1],
            "px": file.side,
            "bytes": time.bytes,
            "size": human_bytes(time.bytes),
            "OPs": None if file.operations is None else f"{file.operations / 1e6:.1f} M",
            "time": f"{time.ratio:.3f}",
            "range": f"{time.ratio_min:.3f}-{time.ratio_max:.3f}",
            "mean %": percent(file.accuracies["mean"]),
            **{g: percent(file.accuracies[g]) for g in SHOT_GROUPS if g in file.accuracies},
            "split": file.split[:_HASH_DIGITS],
        }
        for file, time in zip(files, times, strict=True)
    ]


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows of `measure_files` as text; splits are told where there are several."""
    splits = {row["split"] for row in rows}
    if len(splits) == 1:
        return text_table(rows, _SHOWN, left=_SHOWN[:2])
    return (
        f"{text_table(rows, (*_SHOWN, 'split'), left=_SHOWN[:2])}\n"
        f"The runs are on {len(splits)} splits, maybe with other test images: compare accuracies "
        "of one split alone."
    )


def draw(rows: Sequence[dict[str, Any]]) -> Any:
    """Accuracy against bytes, and against time, a dot for each file: a Matplotlib figure."""
    from matplotlib import ticker
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4.6), layout="constrained")
    by_size, by_time = figure.subplots(1, 2, sharey=True)
    colors = {FILES[kind][1]: color for kind, color in _COLORS.items()}
    has_several = len({row["split"] for row in rows}) > 1
    for number, row in enumerate(rows):
        accuracy, label = float(row["mean %"]), f"{row['run']}, {row['px']} px"
        label += f", split {row['split']}" if has_several else ""
        # Above and below in turn, as files of one run lie side by side.
        place = (0, 6 if number % 2 else -12)
        for axes, value in ((by_size, row["bytes"] / 1e6), (by_time, float(row["time"]))):
            axes.plot(value, accuracy, "o", color=colors[row["file"]])
            text = axes.annotate(label, (value, accuracy), place, textcoords="offset points")
            text.set(ha="center", size=7)
    handles = [
        by_size.plot([], [], "o", color=color, label=name)[0] for name, color in colors.items()
    ]
    figure.legend(handles=handles, loc="outside upper center", ncols=len(handles))
    by_size.set(xlabel="MB", ylabel="mean class accuracy on the test set, %")
    by_time.set(xlabel="time, relative, one thread, this machine")
    for axes in (by_size, by_time):
        axes.set_xscale("log")
        axes.margins(x=0.3, y=0.12)
        axes.xaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(ticker.NullFormatter())
    return figure


def main(given: Sequence[Path], rounds: int, csv_path: str, plot_path: str) -> None:
    """Prints the table, and writes what is asked for."""
    if not given:
        raise UserError("Give folders of finished runs.")
    require_output_files({"csv": csv_path, "plot": plot_path})
    files = files_of(given)
    from candle_tf.deploy.checks.latency import machine
    from candle_tf.reporting.plots.style import to_png

    rows = measure_files(files, rounds)
    first = next((row for row in rows if row["file"] == FILES["tflite_float"][1]), rows[0])
    print(f"{machine()}; one thread; time relative to {first['file']} of {first['run']}")
    print(table(rows))
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    contents = {csv_path: text.getvalue().encode()}
    if plot_path:
        contents[plot_path] = to_png(draw(rows))
    write_each(
        partial(write_atomically, Path(path), content) for path, content in contents.items() if path
    )


def define_flags() -> None:
    """Defines this main's flags: when it runs, as other mains have flags of the same names."""
    flags.DEFINE_integer("rounds", 20, "rounds in which all files take turns", lower_bound=1)
    flags.DEFINE_string("csv", "", "where to write the table as CSV")
    flags.DEFINE_string("plot", "", "where to write accuracy against size and time, PNG")


def _run(arguments: list[str]) -> None:
    given = flags.FLAGS
    main([Path(each) for each in arguments[1:]], given.rounds, given.csv, given.plot)


if __name__ == "__main__":
    define_flags()
    app.run(_run, takes_arguments=True, needs_arguments=True)

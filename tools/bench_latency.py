"""TFLite files side by side on this machine: bytes, time, memory, and what they know.

    python -m tools.bench_latency runs/quickstart runs/caltech101 --json=latency.json
    python -m tools.bench_latency student.lce.tflite other.tflite

Of a run's folder both files of its export are timed, in turn in one run, and student.json tells
their agreement with Keras and their accuracy on the test set. Beside them stand MobileNetV2 in int8
of the same input (--alphas; random weights: for size and speed alone). Times are given relative to
the float32 reference model's.
"""

import dataclasses
import hashlib
import json
import tempfile
from pathlib import Path
from typing import Any

from absl import flags

from candle_tf import app
from candle_tf.deploy.reported_export import refuse_other_student
from candle_tf.errors import UserError
from candle_tf.files import read_json_object, require_writable_file, write_atomically
from candle_tf.reporting.table import ABSENT, human_bytes, percent, text_table

REFERENCE = "student.float.tflite"
_GROUPS = ("mean", "many", "medium", "few")
_TIMES = (
    "file",
    "runtime",
    "threads",
    "size",
    "time / float32",
    "range",
    "ms",
    "10-90 %",
    "memory",
)
_FACTS = ("file", "runtime", "size", "time / float32", "same class %", *(f"{g} %" for g in _GROUPS))


def compare(
    paths: list[Path], alphas: list[float], threads: list[int], rounds: int
) -> dict[str, Any]:
    """Times the files of one folder and its peers.

    Args:
        paths: TFLite files of one input shape, in one folder.
        alphas: channel multipliers of the int8 MobileNetV2 beside them.
        threads: numbers of threads to run with.
        rounds: of each.

    Returns:
        "folder", "baseline", and "rows": `FileTime` as a dictionary with "argmax_agreement" and
        "accuracy" where student.json tells them of this very file.

    Raises:
        UserError: for a file that cannot be run.
    """
    from tools.benchmarks.mobilenet import int8_mobilenet
    from tools.benchmarks.tflite_files import time_files

    shape, classes = _shape(paths[0])
    files = {path.name: path for path in paths}
    baseline = REFERENCE if REFERENCE in files else paths[0].name
    known = _describe(paths)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for alpha in alphas:
            name = f"MobileNetV2 {alpha:g} int8, random weights: time only"
            files[name] = Path(folder) / f"{alpha:g}.tflite"
            files[name].write_bytes(int8_mobilenet(shape[1], classes, alpha))
        for number in threads:
            for row in time_files(files, baseline, number, rounds):
                rows.append({**dataclasses.asdict(row), **known.get(row.file, {})})
    return {"folder": str(paths[0].parent), "baseline": baseline, "rows": rows}


def _shape(path: Path) -> tuple[tuple[int, ...], int]:
    """Input shape and number of outputs of a file."""
    import numpy as np

    from candle_tf.deploy.tflite import interpreters

    flatbuffer = path.read_bytes()
    binary = interpreters.needs_compute_engine(flatbuffer, str(path))
    load = interpreters.open_compute_engine if binary else interpreters.open_litert
    interpreter = load(flatbuffer, str(path))
    return interpreter.shape, interpreter(np.zeros(interpreter.shape, interpreter.dtype)).shape[-1]


def _describe(paths: list[Path]) -> dict[str, dict[str, Any]]:
    """What student.json says of files that are still those it was written with."""
    sidecar = paths[0].parent / "student.json"
    if not sidecar.exists():
        return {}
    try:
        files = read_json_object(sidecar, "Export the student again.")["files"]
        hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
        return {
            name: {key: files[name][key] for key in ("argmax_agreement", "accuracy")}
            for name, digest in hashes.items()
            if files.get(name, {}).get("sha256") == digest
        }
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{sidecar} is damaged ({error}): export the student again.") from error


def table(comparison: dict[str, Any]) -> str:
    """Both tables of one folder: the times, and what the files know."""
    rows = comparison["rows"]
    first = rows[0]["threads"]
    facts = [_facts(row) for row in rows if row["threads"] == first]
    return "\n\n".join(
        [
            f"{comparison['folder']} ('time / float32' is time / time of {comparison['baseline']})",
            text_table([_times(row) for row in rows], _TIMES, left=_TIMES[:2]),
            text_table(facts, _FACTS, left=_FACTS[:2]),
        ]
    )


def _times(row: dict[str, Any]) -> dict[str, Any]:
    return {
        **_common(row),
        "threads": row["threads"],
        "range": f"{row['ratio_min']:.2f}-{row['ratio_max']:.2f}",
        "ms": f"{row['median_ms']:.2f}",
        "10-90 %": f"{row['low_ms']:.2f}-{row['high_ms']:.2f}",
        "memory": ABSENT if row["memory"] is None else human_bytes(row["memory"]),
    }


def _facts(row: dict[str, Any]) -> dict[str, Any]:
    accuracy = row.get("accuracy", {})
    shown = {f"{group} %": percent(accuracy[group]) for group in _GROUPS if group in accuracy}
    same = row.get("argmax_agreement")
    return {**_common(row), "same class %": None if same is None else percent(same), **shown}


def _common(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "file": row["file"],
        "runtime": row["runtime"],
        "size": human_bytes(row["bytes"]),
        "time / float32": f"{row['ratio']:.2f}",
    }


def folders(arguments: list[str]) -> list[list[Path]]:
    """The files to compare, folder by folder.

    Raises:
        UserError: for none, for a path that is not there, and a run that exported no TFLite files,
            or reports another student than theirs, as its export was refused.
    """
    if not arguments:
        raise UserError("Give TFLite files, or folders of finished runs.")
    found: dict[Path, list[Path]] = {}
    for path in map(Path, arguments):
        exported = path / "export" if (path / "export").is_dir() else path
        files = sorted(exported.glob("student.*.tflite")) if path.is_dir() else [path]
        if not files or not files[0].is_file():
            raise UserError(f"{path} is no TFLite file and no folder of a run with an export.")
        refuse_other_student(files[0].parent, is_saved_model=False)
        for file in files:
            reference = file.parent / REFERENCE
            group = found.setdefault(file.parent, [])
            both = dict.fromkeys((file, reference))  # once, if the file is the reference itself
            group += [each for each in both if each.is_file() and each not in group]
    return list(found.values())


def define_flags() -> None:
    """Defines this main's flags: when it runs, as other mains have flags of the same names."""
    flags.DEFINE_list("alphas", ["0.35", "1"], "channel multipliers of MobileNetV2; may be empty")
    flags.DEFINE_list("threads", ["1", "2"], "numbers of threads")
    flags.DEFINE_integer("rounds", 20, "rounds in which all files take turns")
    flags.DEFINE_string("json", None, "where to write the figures")


def main(arguments: list[str]) -> None:
    """Prints the tables of all given files and runs."""
    given = flags.FLAGS
    alphas = _numbers("alphas", given.alphas, float)
    threads = _numbers("threads", given.threads, int)
    if given.rounds < 1 or not threads:
        raise UserError("--rounds and --threads must be at least 1.")
    groups = folders(arguments)
    if given.json:
        require_writable_file(Path(given.json))
    from candle_tf.deploy.checks.latency import machine

    print(f"{machine()}. MobileNetV2 has random weights here: its size and time count alone.")
    comparisons = []
    for group in groups:
        comparisons.append(compare(group, alphas, threads, given.rounds))
        print(f"\n{table(comparisons[-1])}", flush=True)
    if given.json:
        figures = {"machine": machine(), "rounds": given.rounds, "comparisons": comparisons}
        write_atomically(Path(given.json), (json.dumps(figures, indent=2) + "\n").encode())


def _numbers(flag: str, items: list[str], kind: type) -> list[Any]:
    try:
        numbers = [kind(item) for item in items]
    except ValueError as error:
        raise UserError(f"--{flag}={','.join(items)} is no list of numbers.") from error
    if any(number <= 0 for number in numbers):
        raise UserError(f"--{flag}={','.join(items)}: all must be above 0.")
    return numbers


if __name__ == "__main__":
    define_flags()
    app.run(lambda argv: main(argv[1:]), takes_arguments=True, needs_arguments=True)

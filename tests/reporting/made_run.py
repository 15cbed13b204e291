"""The report of a run that never was: results drawn at random, of any number of classes."""

from pathlib import Path

import numpy as np

from candle_tf.metrics import Metrics, evaluate_logits
from candle_tf.reporting.results import Results
from candle_tf.reporting.run_page import write_run_report


def class_names(classes: int) -> list[str]:
    """Short, long and foreign names."""
    special = ["猫", "a_rather_long_name_of_a_class_without_a_blank_in_it", "Ærøskøbing", "<b>"]
    return [special[c] if c < len(special) else f"class {c}" for c in range(classes)]


def draw_run(
    classes: int, seed: int = 0, untested: int = 0
) -> tuple[Results, np.ndarray, np.ndarray]:
    """Results, labels `[N]` and the student's logits `[N, C]`; the last classes may be untested."""
    rng = np.random.default_rng(seed)
    counts = np.array([int(300 * 100 ** (-c / max(1, classes - 1))) for c in range(classes)])
    labels = np.repeat(np.arange(classes - untested), 8)
    names = class_names(classes)
    groups = {
        "many": np.flatnonzero(counts > 100),
        "medium": np.flatnonzero((counts >= 20) & (counts <= 100)),
        "few": np.flatnonzero(counts < 20),
    }
    logits = {
        name: _draw_logits(rng, labels, counts, margin)
        for name, margin in {"teacher": 4.0, "student": 2.0}.items()
    }
    measured = {
        name: evaluate_logits(values, labels, groups, names) for name, values in logits.items()
    }
    return _results(measured, counts, groups, names, len(labels)), labels, logits["student"]


def write_made_report(
    folder: Path, classes: int, seed: int = 0, untested: int = 0, stages: int = 1
) -> Results:
    """Writes report.html, and the logs it reads, into a folder; gives the results."""
    results, labels, logits = draw_run(classes, seed, untested)
    rng = np.random.default_rng(seed)
    whole = folder / ("student" if stages == 1 else "student_stage1")
    whole.mkdir(parents=True, exist_ok=True)
    (whole / "history.csv").write_text(
        "epoch,loss,accuracy,val_loss,val_accuracy,seconds\n"
        + "".join(f"{e},{4 / e},{1 - 1 / e},{4 / e + 0.5},{0.9 - 1 / e},9\n" for e in range(1, 11))
    )
    (whole / "steps.csv").write_text(
        "step,lambda,kl,fs\n" + "".join(f"{s},0.{s + 300},{500 / s},1\n" for s in range(1, 600))
    )
    if stages > 1:
        (folder / "student").mkdir()
        (folder / "student" / "history.csv").write_text("epoch,loss,seconds\n1,2,3\n2,1,3\n")
        (folder / "student" / "steps.csv").write_text("step,loss\n1,2\n2,1\n")
    write_run_report(
        folder / "report.html",
        results,
        labels=labels,
        logits=logits,
        pixels=rng.integers(0, 256, (len(labels), 16, 16, 3), np.uint8),
        norms={"teacher": rng.random(classes), "student": rng.random(classes)},
    )
    return results


def _draw_logits(
    rng: np.random.Generator, labels: np.ndarray, counts: np.ndarray, margin: float
) -> np.ndarray:
    """Right more often where a class has more training images."""
    logits = rng.normal(0, 1, (len(labels), len(counts)))
    logits[np.arange(len(labels)), labels] += margin * np.log(counts[labels]) / np.log(300)
    return logits


def _results(
    measured: dict[str, Metrics],
    counts: np.ndarray,
    groups: dict[str, np.ndarray],
    names: list[str],
    tested: int,
) -> Results:
    student, teacher = measured["student"], measured["teacher"]
    return Results(
        config={
            "method": "candle",
            "dataset": "made",
            "epochs": 10,
            "calibration_resolutions": [96],
        },
        split={
            "hash": "0" * 64,
            "train": int(counts.sum()),
            "validation": 0,
            "test": tested,
            "train_counts": dict(zip(names, counts.tolist(), strict=True)),
            "groups": {g: [names[c] for c in members] for g, members in groups.items()},
        },
        selected_epoch=8,
        last_epoch=10,
        metrics={
            "teacher": teacher,
            "teacher_int8": teacher,
            "student_last_epoch": student,
            "student": student,
            "tflite": student,
            "tflite_float": student,
        },
        bytes={
            "teacher": 13_000_000,
            "teacher_int8": 4_000_000,
            "student": 28_000_000,
            "student_last_epoch": 28_000_000,
            "tflite": 1_280_000,
            "tflite_float": 28_600_000,
        },
        export={
            "teacher_int8": {"resolution": 160, "latency": {"tflite": {"ratio": 0.4}}},
            "cost": {"OPs (binary multiply-adds / 64 + those in float)": 1.2e7},
            "latency": {"tflite": {"ratio": 0.3}, "machine": "a machine"},
        },
    )

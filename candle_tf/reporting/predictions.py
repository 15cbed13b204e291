"""Predictions as CSV, JSON Lines, or a page with the images."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import numpy as np

from candle_tf.files import write_atomically
from candle_tf.reporting.csv_columns import csv_line
from candle_tf.reporting.html import Figure, Gallery, Section, Table, encode_png, write_report


class Predicted(Protocol):
    """See `candle_tf.stages.predict.Prediction`."""

    @property
    def name(self) -> str: ...
    @property
    def classes(self) -> tuple[str, ...]: ...
    @property
    def scores(self) -> tuple[float, ...]: ...
    @property
    def error(self) -> str: ...
    @property
    def image(self) -> np.ndarray | None: ...


def csv_lines(predictions: Iterable[Predicted], top: int) -> Iterable[str]:
    """CSV with a header: image, class_1, score_1, ..., error; one line an image."""
    heads = [f"{name}_{rank}" for rank in range(1, top + 1) for name in ("class", "score")]
    yield csv_line(["image", *heads, "error"])
    for each in predictions:
        pairs = [
            cell for c, s in zip(each.classes, each.scores, strict=True) for cell in (c, f"{s:.6f}")
        ]
        yield csv_line([each.name, *pairs, *[""] * (2 * top - len(pairs)), each.error])


def json_lines(predictions: Iterable[Predicted]) -> Iterable[str]:
    """One JSON object a line: "image", and "classes" and "scores" or "error"."""
    for each in predictions:
        found = (
            {"error": each.error}
            if each.error
            else {"classes": each.classes, "scores": each.scores}
        )
        yield json.dumps({"image": each.name, **found}) + "\n"


def write_page(path: Path, title: str, predictions: Iterable[Predicted]) -> None:
    """One HTML page: each image with its classes and scores, and a table of what failed.

    Raises:
        UserError: where the file cannot be written.
    """
    shown = list(predictions)
    good = [each for each in shown if each.image is not None]
    bad = [[each.name, each.error] for each in shown if each.error]
    figures = [
        Figure(
            encode_png(each.image),
            alt=f"{each.name}: {each.classes[0]}",
            caption=_caption(each),
            width=128,
        )
        for each in good
        if each.image is not None
    ]
    sections = [Section(f"{len(good):,} images", [Gallery(figures)])]
    if bad:
        sections.append(Section("Not classified", [Table(["image", "reason"], bad, left=2)]))
    write_report(path, title, sections)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Writes text lines, whole or not at all."""
    write_atomically(path, (line.encode(errors="backslashreplace") for line in lines))


def _caption(prediction: Predicted) -> str:
    pairs = zip(prediction.classes, prediction.scores, strict=True)
    scores = ", ".join(f"{name} ({100 * score:.0f} %)" for name, score in pairs)
    return f"{prediction.name}: {scores}"

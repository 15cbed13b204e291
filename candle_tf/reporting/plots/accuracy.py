"""Figures of models: accuracy by shot group, against cost, and against confidence."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from candle_tf.metrics import Reliability
from candle_tf.reporting.plots.style import (
    COLORS,
    INK,
    LABEL_SIZE,
    add_legend_below,
    blank_figure,
    figure_with_axes,
    is_narrow,
    label_axes,
    legend_label,
    model_color,
    text_for_width,
)
from candle_tf.reporting.table import ABSENT, SHOT_GROUPS

_HATCHES = ("", "///", "...", "xxx")
# So many bars have room for their values; of more the table beside the figure tells them.
_NARROW_VALUES, _WIDE_VALUES = 18, 60


def accuracy_against_cost(
    costs: Mapping[str, float],
    accuracies: Mapping[str, float],
    cost: str,
    *,
    colors: Mapping[str, str] | None = None,
) -> Figure:
    """Models as dots: what they cost, and how accurate they are.

    Args:
        costs: by model, more than 0.
        accuracies: by model, 0 to 1, for the same models.
        cost: what the costs are, with their unit.
        colors: by model; by the order of the models where none are given.

    Raises:
        ValueError: no model, or not the same ones.
    """
    if not costs or set(costs) != set(accuracies):
        raise ValueError(f"costs of {sorted(costs)}, but accuracies of {sorted(accuracies)}")
    figure, axes = figure_with_axes(7.5, 4.2)
    for i, (name, x) in enumerate(costs.items()):
        y = 100 * accuracies[name]
        color = colors[name] if colors else model_color(name, i)
        axes.plot(x, y, "o", color=color, markersize=8, label=legend_label(name))
    axes.set_xscale("log")
    low, high = min(costs.values()), max(costs.values())
    axes.set_xlim(low / 2, high * 2)
    axes.set_ylim(0, 103)
    axes.set_xlabel(cost)
    label_axes(axes, f"Accuracy against {cost.partition(' (')[0]}", "mean class accuracy (%)")
    add_legend_below(figure, axes)
    return figure


def accuracy_bars(
    rows: Sequence[Mapping[str, Any]],
    *,
    groups: Sequence[str] = SHOT_GROUPS,
    colors: Sequence[str] | None = None,
) -> Figure:
    """Mean accuracy and that of each shot group, side by side for several models or methods.

    Args:
        rows: as `table.method_table` takes them: "model", "mean" and any of `groups`, 0 to 1.
            A value that is missing or None is a dash; a group no row has is left out.
        groups: the shot groups, in order.
        colors: of the rows; None for those of the models.

    Raises:
        ValueError: no rows, or none with a value.
    """
    shown = [k for k in ("mean", *groups) if any(row.get(k) is not None for row in rows)]
    if not shown:
        raise ValueError(f"no row has an accuracy for any of {['mean', *groups]}")
    figure, axes = figure_with_axes(min(16.0, max(7.5, 0.3 * len(rows) * len(shown))), 4.6)
    step = 0.84 / len(rows)
    bars = len(rows) * len(shown)
    upright = bars > (8 if is_narrow() else 20)
    is_readable = bars <= (_NARROW_VALUES if is_narrow() else _WIDE_VALUES)
    for i, row in enumerate(rows):
        places = np.arange(len(shown)) - 0.42 + (i + 0.5) * step
        values = [np.nan if row.get(k) is None else 100 * float(row[k]) for k in shown]
        color = colors[i] if colors else model_color(row["model"], i)
        # Rows of one colour, such as several teachers, are told apart.
        alike = colors[:i].count(color) if colors else i // len(COLORS)
        hatch = _HATCHES[alike % len(_HATCHES)]
        options: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white", "lw": 0.5}
        axes.bar(places, values, 0.92 * step, label=legend_label(row["model"]), **options)
        if is_readable:
            _write_values(axes, places, values, upright)
    shot = "" if is_narrow() else "-shot"
    axes.set_xticks(range(len(shown)), [f"{k}{shot}" if k in SHOT_GROUPS else k for k in shown])
    axes.set_ylim(0, 112 if upright else 106)
    axes.set_yticks(range(0, 101, 20))
    label_axes(axes, "Accuracy over all classes and by shot group", "mean class accuracy (%)")
    axes.tick_params(axis="x", length=0, labelsize=LABEL_SIZE)
    add_legend_below(figure, axes)
    return figure


def reliability_diagram(bins: Reliability) -> Figure:
    """Accuracy against confidence, and how many images each bin of confidence holds.

    Args:
        bins: of `candle_tf.metrics.reliability`.
    """
    figure = blank_figure(5.4, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    left, width = bins.edges[:-1], np.diff(bins.edges)
    box = {"align": "edge", "edgecolor": "white", "linewidth": 0.6}
    upper.bar(left, bins.accuracy, width, color=COLORS[0], label="accuracy", **box)
    filled = bins.counts > 0
    upper.plot(
        bins.confidence[filled],
        bins.confidence[filled],
        "D",
        color="white",
        markeredgecolor=INK,
        markersize=5,
        label=text_for_width("mean confidence (where accuracy should be)", "mean confidence"),
    )
    upper.plot([0, 1], [0, 1], "--", color="#666666", linewidth=1)
    upper.set_ylim(0, 1.03)
    upper.set_xlim(0, 1)
    error = 100 * bins.expected_calibration_error
    label_axes(upper, f"Can confidence be trusted? Calibration error {error:.1f} %", "accuracy")
    add_legend_below(figure, upper)
    lower.bar(left, bins.counts / bins.counts.sum() * 100, width, color="#777777", **box)
    lower.set_xlabel(
        text_for_width("confidence (probability of the predicted class)", "confidence")
    )
    label_axes(lower, "", "images (%)")
    return figure


def _write_values(
    axes: Axes, places: npt.NDArray[np.float64], percents: Sequence[float], upright: bool
) -> None:
    """Each bar's value on top of it; a dash where there is no bar."""
    for x, value in zip(places, percents, strict=True):
        absent = math.isnan(value)
        options: dict[str, Any] = {"fontsize": 13} if absent else {"fontsize": 8}
        options["rotation"] = 90 if upright and not absent else 0
        height, text = (0.0, ABSENT) if absent else (value, f"{value:.1f}")
        axes.text(x, height + 0.8, text, color=INK, ha="center", va="bottom", **options)

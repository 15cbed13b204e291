"""The plot of a table: a bar for each row, or accuracy against images seen.

figure = bars({"scratch-candle": [47.2, 47.4]}, "test set")
figure = curve({"candle": [(138_800, [34.9]), (416_400, [47.4])]}, "validation subset")
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_COLORS = ("#0072B2", "#E69F00", "#009E73", "#882255", "#56B4E9", "#CC79A7", "#555555")


def bars(rows: Mapping[str, Sequence[float]], subset: str) -> Any:
    """The mean over seeds of each row, and its seeds as points.

    Args:
        rows: accuracies of the seeds in per cent, by the row's name.
        subset: of the images, for the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 + 0.32 * len(rows)), layout="constrained")
    axes = figure.subplots()
    for place, values in enumerate(rows.values()):
        axes.barh(place, np.mean(values), color="#4477aa")
        axes.plot(values, [place] * len(values), "o", color="black", markersize=3)
    axes.set_yticks(range(len(rows)), list(rows))
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel(f"student, mean class accuracy on the {subset}, %\npoints: seeds")
    return figure


def curve(lines: Mapping[str, Sequence[tuple[float, Sequence[float]]]], subset: str) -> Any:
    """Accuracy against images seen: a line for each name, its seeds as points.

    Args:
        lines: images seen of a training of so many epochs, and the accuracies of its seeds in per
            cent, by the line's name; in any order.
        subset: of the images, for the axis.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for place, (name, points) in enumerate(lines.items()):
        color = _COLORS[place % len(_COLORS)]
        ordered = sorted(points, key=lambda point: point[0])
        images = [each for each, _ in ordered]
        axes.plot(images, [np.mean(v) for _, v in ordered], "-", color=color, label=name)
        for each, values in ordered:
            axes.plot([each] * len(values), values, "o", color=color, markersize=4)
    axes.set_xscale("log")
    ticks = sorted({images for points in lines.values() for images, _ in points})
    axes.set_xticks(ticks, [f"{images:,.0f}" for images in ticks], fontsize=8)
    axes.minorticks_off()
    axes.set_xlabel("images that the student has seen")
    axes.set_ylabel(f"mean class accuracy on\nthe {subset}, %")
    axes.grid(color="#DDDDDD")
    axes.legend()
    return figure

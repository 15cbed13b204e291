"""Figures of several runs: lambda over the training, and gains of classes against their size."""

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure

# At most so many points of a curve are drawn: more cannot be told apart.
_POINTS = 400


def lambda_curves(curves: Mapping[str, np.ndarray]) -> Figure:
    """Lambda over the fraction of the training that is done, smoothed by means of equal spans.

    Args:
        curves: name -> lambda at each step, float `[S]`, 0 to 1.
    """
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    for name, values in curves.items():
        spans = np.array_split(values, min(_POINTS, len(values)))
        places = (np.arange(len(spans)) + 0.5) / len(spans)
        axes.plot(100 * places, [span.mean() for span in spans], label=name)
    axes.set_ylim(-0.03, 1.03)
    axes.set_xlabel("training done (%)")
    axes.set_ylabel("λ (weight of the logit loss)")
    axes.legend(fontsize=8)
    return figure


def gains_by_class_size(gains: np.ndarray, counts: np.ndarray) -> Figure:
    """A dot for each class: gain in points over training images, on a log axis.

    Args:
        gains: float `[C]`, -1 to 1; nan for a class without test images, which has no dot.
        counts: training images of each class, int `[C]`.
    """
    figure = Figure(figsize=(7.5, 4.2), layout="constrained")
    axes = figure.subplots()
    axes.axhline(0.0, color="#888888", linewidth=0.9)
    axes.plot(counts, 100 * gains, "o", color="#0072B2", alpha=0.7, markersize=4)
    axes.set_xscale("log")
    axes.set_xlabel("training images of the class")
    axes.set_ylabel("gain (points)")
    return figure

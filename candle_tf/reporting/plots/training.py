"""Figures of a training: losses and accuracies by epoch, lambda and the losses it weights."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from candle_tf.reporting.plots.style import (
    INK,
    TITLE_SIZE,
    add_legend,
    blank_figure,
    is_narrow,
    label_axes,
    whole_number_ticks,
    wrap_title,
)
from candle_tf.reporting.plots.values import as_series, running_mean

# By the flag's value: what lambda is the weight of, the curve's label, the loss's unit. Losses of
# plugins have their name and no unit.
_LOGIT_LOSSES: dict[str, tuple[str, ...]] = {
    "kl": ("KL", "$L_{KL}$", "nats"),
    "standardized": ("standardized KL", "$L_{KL}$, standardized", "9 × nats"),
    "dist": ("DIST", "$L_{DIST}$", "4 (1 − mean ρ)"),
}
# The curve's label and the loss's unit.
_FEATURE_LOSSES: dict[str, tuple[str, ...]] = {
    "cosine": ("$L_{FS}$", "1 − cos"),
    "source_kl": ("$L_{KL}$ of source classes", "nats"),
    "r2": ("$1 − R^2$ of features", "1 − R²"),
}


def training_curves(
    series: Mapping[str, Sequence[float]],
    title: str = "Training and validation by epoch",
    selected_epoch: int | None = None,
) -> Figure:
    """One panel for each quantity: the training series solid, the validation series dashed.

    Args:
        series: name -> values by epoch, as a Keras `History` holds them; "val_x" shares the
            panel of "x". Names with "accuracy" are fractions and shown in percent.
        title: above the panels.
        selected_epoch: counted from 1, marked by a line.

    Raises:
        ValueError: no series, or an empty one.
    """
    quantities = list(dict.fromkeys(name.removeprefix("val_") for name in series))
    if not quantities or not all(len(values) for values in series.values()):
        raise ValueError(f"training curves need at least one epoch; got {dict(series)}")
    columns = 1 if is_narrow() else min(2, len(quantities))
    rows = math.ceil(len(quantities) / columns)
    figure = blank_figure(4.6 * columns + 1.4 * (columns == 1), 3.2 * rows + 0.4)
    figure.suptitle(wrap_title(figure, title), fontsize=TITLE_SIZE, color=INK, parse_math=False)
    for place, quantity in enumerate(quantities):
        axes = figure.add_subplot(rows, columns, place + 1)
        scale = 100 if "accuracy" in quantity else 1
        for prefix, label, style, color in (
            ("", "training", "-", INK),
            ("val_", "validation", "--", "#808080"),
        ):
            if prefix + quantity in series:
                values = scale * np.asarray(series[prefix + quantity], float)
                epochs, mark = range(1, len(values) + 1), "o" if len(values) <= 20 else None
                options: dict[str, Any] = {"linewidth": 1.8, "marker": mark, "markersize": 3.5}
                axes.plot(epochs, values, style, color=color, label=label, **options)
        if selected_epoch is not None:
            line: dict[str, Any] = {"color": "#888888", "linewidth": 1.2, "linestyle": ":"}
            axes.axvline(selected_epoch, label=f"selected epoch: {selected_epoch}", **line)
        axes.xaxis.set_major_locator(whole_number_ticks())
        axes.set_xlabel("epoch")
        label_axes(axes, "", f"{quantity.replace('_', ' ')}{' (%)' if scale == 100 else ''}")
        add_legend(axes)
    return figure


def balance_curves(
    balance: npt.ArrayLike,
    kl: npt.ArrayLike,
    feature_similarity: npt.ArrayLike,
    *,
    logit_loss: str = "kl",
    feature_loss: str = "cosine",
    positions: npt.ArrayLike | None = None,
    unit: str = "epoch",
) -> Figure:
    """Lambda during training, above the two losses it weights (arXiv 2404.00285, section 3).

    Args:
        balance: `[S]`, lambda, 0 to 1: the weight of the first loss, between logits.
        kl: `[S]`, the first loss as logged, unweighted.
        feature_similarity: `[S]`, the second, between features, as logged, unweighted.
        logit_loss: what the first is, as --logit_loss names it.
        feature_loss: what the second is, as --feature_loss names it.
        positions: `[S]`, where on the axis; 1 to S by default.
        unit: what the positions count: "epoch" or "step".

    Raises:
        ValueError: the series differ in length, or are empty.
    """
    lambdas = as_series("balance", balance)
    weighted, first, *units = _LOGIT_LOSSES.get(logit_loss, (logit_loss, logit_loss))
    second, *other_units = _FEATURE_LOSSES.get(feature_loss, (feature_loss,))
    losses = {
        first: as_series("kl", kl, len(lambdas)),
        second: as_series("feature_similarity", feature_similarity, len(lambdas)),
    }
    places = np.arange(1, len(lambdas) + 1) if positions is None else positions
    x = as_series("positions", places, len(lambdas))
    figure = blank_figure(7.5, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _trace(upper, x, lambdas, INK, None)
    upper.axhline(0.5, color="#888888", linewidth=0.9, linestyle=":")
    upper.set_ylim(-0.03, 1.03)
    title = f"Weight of the {weighted} loss, and the two losses"
    label_axes(upper, title, f"λ (weight of {weighted})")
    for color, (label, values) in zip(("#009E73", "#882255"), losses.items(), strict=True):
        _trace(lower, x, values, color, label)
    _log_if_wide(lower, np.concatenate(list(losses.values())))
    lower.set_xlabel(unit)
    lower.xaxis.set_major_locator(whole_number_ticks())
    lower.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    told = "; ".join(dict.fromkeys([*units, *other_units]))
    label_axes(lower, "", f"loss ({told})" if told else "loss")
    add_legend(lower)
    return figure


def _trace(
    axes: Axes,
    x: npt.NDArray[np.float64],
    values: npt.NDArray[np.float64],
    color: str,
    label: str | None,
) -> None:
    """A line; of many noisy steps a faint one, with its running mean on top."""
    half = len(values) // 100
    if half > 1:
        axes.plot(x, values, color=color, linewidth=0.6, alpha=0.3)
        values = running_mean(values, half)
    mark = "o" if len(values) <= 20 else None
    axes.plot(x, values, color=color, linewidth=1.9, marker=mark, markersize=3.5, label=label)


def _log_if_wide(axes: Axes, values: npt.NDArray[np.float64]) -> None:
    """A log axis where a linear one would press the smaller series to the ground."""
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    if low > 0 and high / low > 20:
        axes.set_yscale("log")
        axes.yaxis.set_minor_locator(ticker.LogLocator(subs=(2, 5)))
        axes.yaxis.set_major_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
        axes.yaxis.set_minor_formatter(ticker.FuncFormatter(lambda v, _: f"{v:g}"))
    else:
        axes.set_ylim(bottom=min(0, low))

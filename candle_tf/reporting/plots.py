"""Figures of a run: each function takes plain arrays and returns a Matplotlib figure.

    figure = class_counts(counts, groups)
    png = to_png(figure)            # bytes, for a file or for `html.Figure`

Figures are drawn by Agg without `pyplot`: no window, no global state, safe beside a user's own
plots. Classes always run from the head (most training images) to the tail. A colour has one meaning
in all figures: a model (student blue, teacher orange), right or wrong; shot groups are shades of
grey. They are told apart under the common colour-vision deficiencies (Okabe and Ito 2008).
"""

import io
import math
import textwrap
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np
import numpy.typing as npt
from absl import logging
from matplotlib import font_manager, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke

from candle_tf.metrics import Reliability
from candle_tf.reporting.table import ABSENT, SHOT_GROUPS, printable

DPI = 120

_GROUP_COLORS = {"many": "#2F3A45", "medium": "#7A8794", "few": "#B7C3CF"}
# Of models, by the first words of their names; what has no colour of its own gets one of `_COLORS`.
_MODEL_COLORS = {
    "teacher as int8": "#CC79A7",
    "teacher": "#E69F00",
    "its float32": "#56B4E9",
    "student": "#0072B2",
}
# Figures for narrow windows are at most so wide, in inches of 120 pixels.
_NARROW_WIDTH = 3.1
_narrow: ContextVar[bool] = ContextVar("_narrow", default=False)
# Of teachers beside several runs, whose students have the other colours.
TEACHERS_COLOR = "#AAAAAA"
_COLORS = ("#0072B2", "#E69F00", "#009E73", "#882255", "#56B4E9", "#CC79A7", "#555555")
_HATCHES = ("", "///", "...", "xxx")
_INK, _FAINT = "#222222", "#DDDDDD"
_RIGHT, _WRONG = "#0072B2", "#B23A00"
_TITLE, _LABEL, _TICK = 12, 10.5, 9.5
# Names can be read along the axis up to here; bars can be told apart up to there.
_NAMED_CLASSES, _SEPARATE_BARS = 40, 100
_NAME_LENGTH = 18
_NARROW_LEGEND, _WIDE_LEGEND = 34, 60
# Size of a dot of a class's count, for up to so many classes.
_COUNT_DOTS = {40: 8.0, 200: 5.0, 10**9: 3.5}
# Counts that span so much are shown on a log axis.
_LOG_FACTOR = 10
# So many bars have room for their values; of more the table beside the figure tells them.
_NARROW_VALUES, _WIDE_VALUES = 18, 60
# Size and opacity of a dot, for up to so many classes.
_DOTS = {200: (4.5, 0.75), 2000: (3.0, 0.6), 10**9: (2.0, 0.35)}
# DejaVu, which comes with Matplotlib, has no East Asian letters; a system may have these.
_NAME_FONTS = ("DejaVu Sans", "Noto Sans CJK JP", "Noto Sans CJK SC", "Hiragino Sans", "SimHei")


def to_png(figure: Figure) -> bytes:
    """The figure as the bytes of a PNG file, at 120 dots per inch of the figure's size."""
    buffer = io.BytesIO()
    figure.set_dpi(DPI)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        FigureCanvasAgg(figure).print_png(buffer)
    glyphs = [w for w in caught if "Glyph" in str(w.message)]
    for other in (w for w in caught if w not in glyphs):
        warnings.warn_explicit(other.message, other.category, other.filename, other.lineno)
    if glyphs:
        logging.warning(
            "%d characters of names are drawn as boxes: no installed font has them "
            "(for East Asian names install Noto Sans CJK).",
            len({str(w.message) for w in glyphs}),
        )
    return buffer.getvalue()


@contextmanager
def narrow_figures() -> Iterator[None]:
    """Figures drawn within are for windows of 400 CSS pixels."""
    token = _narrow.set(True)
    try:
        yield
    finally:
        _narrow.reset(token)


def class_counts(
    counts: npt.ArrayLike,
    groups: Mapping[str, npt.ArrayLike],
    class_names: Sequence[str] | None = None,
) -> Figure:
    """Training images per class, largest first, coloured by shot group.

    Bars from 0 where the counts are alike. Where they span a factor of ten and more, dots on a log
    axis, which has no 0 that bars could begin at; the axis says so.

    Args:
        counts: int `[C]`, training images of each class.
        groups: shot group -> class indices; an empty group is left out.
        class_names: C names, written along the axis when there are at most 40.

    Raises:
        ValueError: shapes that do not fit, or no image at all.
    """
    images = _per_class("counts", counts)
    if images.max() < 1:
        raise ValueError("no class has a training image: there is nothing to draw")
    figure, axes = _figure(_class_width(len(images)), 4.2)
    order = _head_to_tail(images)
    filled = np.where(images > 0, images, np.nan)[order]
    is_log = np.nanmax(filled) >= _LOG_FACTOR * np.nanmin(filled)
    draw = _count_dots if is_log else _bars
    for name, color, member in _group_masks(groups, len(images)):
        label = f"{name}: {_count_label(int(member.sum()), 'class', 'classes')}"
        draw(axes, np.where(member[order], filled, np.nan), color, label)
    if is_log:
        axes.set_yscale("log")
        axes.set_ylim(0.7, images.max() * 1.6)
        axes.yaxis.set_minor_formatter(ticker.NullFormatter())
    else:
        axes.set_ylim(0, images.max() * 1.06)
    axes.yaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    most, least = int(images.max()), int(images.min())
    _class_axis(axes, order, class_names)
    scale = " (log axis)" if is_log else ""
    _finish(
        axes,
        f"Training images per class: from {most:,} to {least:,}",
        f"training images{scale}",
    )
    _legend_below(figure, axes)
    return figure


def accuracy_by_class_size(
    accuracies: Mapping[str, Sequence[float | None]], counts: npt.ArrayLike
) -> Figure:
    """Test accuracy of each class against its training images, for one or more models.

    Args:
        accuracies: model -> `[C]`, 0 to 1; None for a class without test images.
        counts: int `[C]`, training images of each class.

    Raises:
        ValueError: no model, or shapes that do not fit.
    """
    images = _per_class("counts", counts)
    if not accuracies:
        raise ValueError("the accuracies of at least one model are needed")
    figure, axes = _figure(7.5, 4.2)
    size, alpha = next(style for most, style in _DOTS.items() if len(images) <= most)
    order = np.argsort(images, kind="stable")
    for i, (name, values) in enumerate(accuracies.items()):
        percent = 100 * _per_class(f"accuracy of {name!r}", values, len(images))
        color = _model_color(name, i)
        dots: dict[str, Any] = {"markersize": size, "alpha": alpha, "markeredgewidth": 0}
        axes.plot(images, percent, "o", color=color, label=_legend_name(name), **dots)
        if len(images) >= 10:
            smooth = _smooth(percent[order], max(1, len(images) // 20))
            halo = [withStroke(linewidth=3.2, foreground="white")]
            axes.plot(images[order], smooth, color=color, linewidth=2, path_effects=halo)
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(0.8 * max(images.min(), 1), 1.2 * images.max())
    axes.set_ylim(0, 103)
    axes.set_xlabel("training images of the class")
    _finish(axes, "Accuracy of each class, by its number of training images", "test accuracy (%)")
    _legend_below(figure, axes)
    return figure


def confusion_heatmap(matrix: npt.ArrayLike, class_names: Sequence[str], most: int) -> Figure:
    """Which classes are taken for which: shares of each class's test images.

    Args:
        matrix: int `[C, C]`, images by true (row) and predicted class (column).
        class_names: C names.
        most: at most so many classes are shown, those with the lowest accuracy; the images that
            were taken for others are in a last column.

    Raises:
        ValueError: shapes that do not fit, or no tested class.
    """
    counts = np.asarray(matrix, float)
    if counts.shape != (len(class_names), len(class_names)):
        raise ValueError(f"a matrix of shape {counts.shape} for {len(class_names)} classes")
    totals = counts.sum(axis=1)
    tested = np.flatnonzero(totals)
    if not len(tested):
        raise ValueError("no class has a test image: there is nothing to draw")
    shares = 100 * counts[tested] / totals[tested, None]
    right = shares[np.arange(len(tested)), tested]
    shown = np.sort(np.argsort(right, kind="stable")[:most])
    classes, rows = tested[shown], shares[shown]
    cells = rows[:, classes]
    labels = [_name(class_names[c], 10 if _narrow.get() else _NAME_LENGTH) for c in classes]
    columns = list(labels)
    if len(classes) < len(class_names):
        cells = np.hstack([cells, 100 - cells.sum(axis=1, keepdims=True)])
        columns.append(_shorter("all others", "others"))
    side = 0.34 * len(labels) + 2.2
    figure, axes = _figure(min(9.5, max(4.0, side + 0.6)), min(9.0, max(3.4, side)))
    image = axes.imshow(cells, cmap="Greys", vmin=0, vmax=100, aspect="auto")
    if not _narrow.get():
        figure.colorbar(image, ax=axes, label="% of the class's test images", shrink=0.8)
    turn: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(columns)), columns, **_name_style(), **turn)
    axes.set_yticks(range(len(labels)), labels, **_name_style())
    few = len(classes) < len(tested)
    worst = f"{len(classes)} worst classes"
    title = _shorter(f"Confusions of the {worst}", f"The {worst}") if few else "Confusions"
    _finish(axes, title, "class")
    axes.set_xlabel("predicted as")
    axes.grid(visible=False)
    axes.tick_params(length=0)
    return figure


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
    figure, axes = _figure(7.5, 4.2)
    for i, (name, x) in enumerate(costs.items()):
        y = 100 * accuracies[name]
        color = colors[name] if colors else _model_color(name, i)
        axes.plot(x, y, "o", color=color, markersize=8, label=_legend_name(name))
    axes.set_xscale("log")
    low, high = min(costs.values()), max(costs.values())
    axes.set_xlim(low / 2, high * 2)
    axes.set_ylim(0, 103)
    axes.set_xlabel(cost)
    _finish(axes, f"Accuracy against {cost.partition(' (')[0]}", "mean class accuracy (%)")
    _legend_below(figure, axes)
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
    figure, axes = _figure(min(16.0, max(7.5, 0.3 * len(rows) * len(shown))), 4.6)
    step = 0.84 / len(rows)
    bars = len(rows) * len(shown)
    upright = bars > (8 if _narrow.get() else 20)
    is_readable = bars <= (_NARROW_VALUES if _narrow.get() else _WIDE_VALUES)
    for i, row in enumerate(rows):
        places = np.arange(len(shown)) - 0.42 + (i + 0.5) * step
        values = [np.nan if row.get(k) is None else 100 * float(row[k]) for k in shown]
        color = colors[i] if colors else _model_color(row["model"], i)
        # Rows of one colour, such as several teachers, are told apart.
        alike = colors[:i].count(color) if colors else i // len(_COLORS)
        hatch = _HATCHES[alike % len(_HATCHES)]
        options: dict[str, Any] = {"color": color, "hatch": hatch, "edgecolor": "white", "lw": 0.5}
        axes.bar(places, values, 0.92 * step, label=_legend_name(row["model"]), **options)
        if is_readable:
            _write_values(axes, places, values, upright)
    shot = "" if _narrow.get() else "-shot"
    axes.set_xticks(range(len(shown)), [f"{k}{shot}" if k in SHOT_GROUPS else k for k in shown])
    axes.set_ylim(0, 112 if upright else 106)
    axes.set_yticks(range(0, 101, 20))
    _finish(axes, "Accuracy over all classes and by shot group", "mean class accuracy (%)")
    axes.tick_params(axis="x", length=0, labelsize=_LABEL)
    _legend_below(figure, axes)
    return figure


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
    columns = 1 if _narrow.get() else min(2, len(quantities))
    rows = math.ceil(len(quantities) / columns)
    figure = _blank(4.6 * columns + 1.4 * (columns == 1), 3.2 * rows + 0.4)
    figure.suptitle(_title(figure, title), fontsize=_TITLE, color=_INK, parse_math=False)
    for place, quantity in enumerate(quantities):
        axes = figure.add_subplot(rows, columns, place + 1)
        scale = 100 if "accuracy" in quantity else 1
        for prefix, label, style, color in (
            ("", "training", "-", _INK),
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
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.set_xlabel("epoch")
        _finish(axes, "", f"{quantity.replace('_', ' ')}{' (%)' if scale == 100 else ''}")
        _legend(axes)
    return figure


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
    lambdas = _per_class("balance", balance)
    weighted, first, *units = _LOGIT_LOSSES.get(logit_loss, (logit_loss, logit_loss))
    second, *other_units = _FEATURE_LOSSES.get(feature_loss, (feature_loss,))
    losses = {
        first: _per_class("kl", kl, len(lambdas)),
        second: _per_class("feature_similarity", feature_similarity, len(lambdas)),
    }
    places = np.arange(1, len(lambdas) + 1) if positions is None else positions
    x = _per_class("positions", places, len(lambdas))
    figure = _blank(7.5, 5.4)
    upper, lower = figure.subplots(2, 1, sharex=True)
    _trace(upper, x, lambdas, _INK, None)
    upper.axhline(0.5, color="#888888", linewidth=0.9, linestyle=":")
    upper.set_ylim(-0.03, 1.03)
    title = f"Weight of the {weighted} loss, and the two losses"
    _finish(upper, title, f"λ (weight of {weighted})")
    for color, (label, values) in zip(("#009E73", "#882255"), losses.items(), strict=True):
        _trace(lower, x, values, color, label)
    _log_if_wide(lower, np.concatenate(list(losses.values())))
    lower.set_xlabel(unit)
    lower.xaxis.set_major_locator(_whole_numbers())
    lower.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    told = "; ".join(dict.fromkeys([*units, *other_units]))
    _finish(lower, "", f"loss ({told})" if told else "loss")
    _legend(lower)
    return figure


def reliability_diagram(bins: Reliability) -> Figure:
    """Accuracy against confidence, and how many images each bin of confidence holds.

    Args:
        bins: of `candle_tf.metrics.reliability`.
    """
    figure = _blank(5.4, 6.0)
    upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    left, width = bins.edges[:-1], np.diff(bins.edges)
    box = {"align": "edge", "edgecolor": "white", "linewidth": 0.6}
    upper.bar(left, bins.accuracy, width, color=_COLORS[0], label="accuracy", **box)
    filled = bins.counts > 0
    upper.plot(
        bins.confidence[filled],
        bins.confidence[filled],
        "D",
        color="white",
        markeredgecolor=_INK,
        markersize=5,
        label=_shorter("mean confidence (where accuracy should be)", "mean confidence"),
    )
    upper.plot([0, 1], [0, 1], "--", color="#666666", linewidth=1)
    upper.set_ylim(0, 1.03)
    upper.set_xlim(0, 1)
    error = 100 * bins.expected_calibration_error
    _finish(upper, f"Can confidence be trusted? Calibration error {error:.1f} %", "accuracy")
    _legend_below(figure, upper)
    lower.bar(left, bins.counts / bins.counts.sum() * 100, width, color="#777777", **box)
    lower.set_xlabel(_shorter("confidence (probability of the predicted class)", "confidence"))
    _finish(lower, "", "images (%)")
    return figure


def weight_norms(norms: Mapping[str, npt.ArrayLike], counts: npt.ArrayLike) -> Figure:
    """Norm of each class's classifier weights, head to tail, for one or more classifiers.

    Args:
        norms: classifier -> float `[C]`, e.g. `np.linalg.norm(kernel, axis=0)` of a Keras kernel
            `[features, C]`.
        counts: int `[C]`, training images of each class; they give the order.

    Raises:
        ValueError: no classifier, or shapes that do not fit.
    """
    images = _per_class("counts", counts)
    if not norms:
        raise ValueError("weight norms of at least one classifier are needed")
    figure, axes = _figure(7.5, 4.2)
    order = _head_to_tail(images)
    highest = 0.0
    for i, (name, values) in enumerate(norms.items()):
        heights = _per_class(f"norms of {name!r}", values, len(images))[order]
        color = _model_color(name, i)
        _dots(axes, heights, color, name)
        _running_mean(axes, heights, color, label=None)
        highest = max(highest, float(np.nanmax(heights)))
    axes.set_ylim(0, 1.1 * highest if highest else 1)
    _class_axis(axes, order, None)
    _finish(axes, "Norm of each class's classifier weights, head to tail", "L2 norm of weights")
    _legend_below(figure, axes)
    return figure


def example_grid(
    images: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8],
    true: Sequence[str],
    predicted: Sequence[str],
    columns: int = 6,
) -> Figure:
    """Images with the name of their class and, where it differs, the one predicted.

    Args:
        images: uint8, each `[H, W, 3]`, `[H, W, 1]` or `[H, W]`; sizes may differ.
        true: a class name for each.
        predicted: a class name for each.
        columns: images in a row.

    Raises:
        ValueError: no image, an image that is not uint8, or as many names as do not fit.
    """
    if not len(images) == len(true) == len(predicted) or not len(images):
        raise ValueError(
            f"{len(images)} images, {len(true)} true and {len(predicted)} predicted names: "
            "as many of each are needed, and at least one"
        )
    columns = min(columns, len(images))
    rows = math.ceil(len(images) / columns)
    figure = _blank(max(4.5, 1.7 * columns), 2.1 * rows + 0.5)
    right = sum(t == p for t, p in zip(true, predicted, strict=True))
    title = f"Test images: {right} right, {len(images) - right} wrong (✗: what was predicted)"
    figure.suptitle(title, fontsize=_TITLE, color=_INK)
    grid = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes in grid:
        axes.set_axis_off()
    for axes, image, truth, guess in zip(grid, images, true, predicted, strict=False):
        _draw_example(axes, image, truth, guess)
    return figure


def _draw_example(axes: Axes, image: npt.NDArray[np.uint8], truth: str, guess: str) -> None:
    if image.dtype != np.uint8:
        raise ValueError(f"images must be uint8, 0 to 255, not {image.dtype}")
    shown = image[..., 0] if image.ndim == 3 and image.shape[-1] == 1 else image
    # Small images keep their pixels; smoothing would hide what the network was given.
    smooth = "nearest" if min(shown.shape[:2]) < 100 else "antialiased"
    axes.imshow(shown, cmap="gray", vmin=0, vmax=255, interpolation=smooth)
    right = truth == guess
    verdict = "✓" if right else f"✗ {_name(guess, 17)}"
    options: dict[str, Any] = {"fontsize": 8.5, "color": _RIGHT if right else _WRONG, "pad": 3}
    axes.set_title(f"{_name(truth, 19)}\n{verdict}", **options, **_name_style())


def _blank(width: float, height: float) -> Figure:
    size = (min(width, _NARROW_WIDTH) if _narrow.get() else width, height)
    figure = Figure(figsize=size, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = _blank(width, height)
    return figure, figure.add_subplot()


def _class_width(classes: int) -> float:
    return 7.5 if classes <= 20 else 9.5


def _finish(axes: Axes, title: str, y_label: str) -> None:
    figure = axes.get_figure()
    text = _title(figure, title) if isinstance(figure, Figure) else title
    axes.set_title(text, fontsize=_TITLE, loc="left", color=_INK, parse_math=False)
    axes.set_ylabel(y_label, fontsize=_LABEL, color=_INK)
    axes.xaxis.label.set(fontsize=_LABEL, color=_INK)
    axes.tick_params(which="both", labelsize=_TICK, colors=_INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _shorter(text: str, narrow: str) -> str:
    return narrow if _narrow.get() else text


def _title(figure: Figure, text: str) -> str:
    """A title in as many lines as the figure's width asks for."""
    return textwrap.fill(_name(text, 200), max(20, int(9 * figure.get_figwidth())))


def _model_color(name: str, place: int) -> str:
    found = [color for start, color in _MODEL_COLORS.items() if name.startswith(start)]
    # A second model of a kind must not look like the first.
    return found[0] if found and place < len(_MODEL_COLORS) + 1 else _COLORS[place % len(_COLORS)]


def run_color(place: int) -> str:
    """Colour of a run among several, in all figures of their comparison."""
    return _COLORS[place % len(_COLORS)]


def _write_values(
    axes: Axes, places: npt.NDArray[np.float64], percents: Sequence[float], upright: bool
) -> None:
    """Each bar's value on top of it; a dash where there is no bar."""
    for x, value in zip(places, percents, strict=True):
        absent = math.isnan(value)
        options: dict[str, Any] = {"fontsize": 13} if absent else {"fontsize": 8}
        options["rotation"] = 90 if upright and not absent else 0
        height, text = (0.0, ABSENT) if absent else (value, f"{value:.1f}")
        axes.text(x, height + 0.8, text, color=_INK, ha="center", va="bottom", **options)


def _legend(axes: Axes) -> None:
    _readable(axes.legend(loc="best", fontsize=_TICK, labelcolor=_INK, framealpha=0.85))


def _legend_below(figure: Figure, axes: Axes) -> None:
    """For images whose bars or dots fill the axes: nothing may be hidden."""
    handles, labels = axes.get_legend_handles_labels()
    letters = 11.5 * figure.get_figwidth()
    in_one_row = sum(len(label) + 6 for label in labels) <= letters
    longest = max(map(len, labels)) + 6
    columns = len(labels) if in_one_row else max(1, int(letters / longest))
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    legend = figure.legend(handles, labels, fontsize=_TICK, labelcolor=_INK, **place)
    for text in legend.get_texts():
        text.set(**_name_style())
    _readable(legend)


def _readable(legend: Legend) -> None:
    """Faint dots, of which an image holds thousands, are shown large and opaque in the legend."""
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D) and handle.get_linestyle() == "None":
            handle.set(alpha=1.0, markersize=6)


def _name(text: str, length: int = 40) -> str:
    """A name fit to be drawn: on one line, not longer than `length`."""
    line = printable(text)
    return line if len(line) <= length else line[: length - 1] + "…"


def _legend_name(text: str) -> str:
    """A name fit for a legend; what is too long has its middle left out, as runs differ at the end.

    Matplotlib leaves what begins with an underscore out of its legends.
    """
    line = printable(text).lstrip("_")
    length = _NARROW_LEGEND if _narrow.get() else _WIDE_LEGEND
    if len(line) <= length:
        return line
    tail = 2 * length // 3
    return f"{line[: length - tail - 1]}…{line[-tail:]}"


def _name_style() -> dict[str, Any]:
    """Names are drawn as they stand: a dollar sign in one does not start a formula."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return {"parse_math": False, "fontfamily": [f for f in _NAME_FONTS if f in installed]}


def _count_label(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


def _per_class(
    what: str, values: npt.ArrayLike | Sequence[float | None], length: int | None = None
) -> npt.NDArray[np.float64]:
    """float64 `[C]`, None as NaN."""
    array = np.asarray(values, float)
    if array.ndim != 1 or not array.size or length not in (None, len(array)):
        raise ValueError(
            f"{what} of shape {array.shape}, but "
            f"{'at least one value' if length is None else (length,)} is needed"
        )
    return array


def _head_to_tail(counts: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    return np.argsort(-counts, kind="stable")


def _group_masks(
    groups: Mapping[str, npt.ArrayLike], classes: int
) -> list[tuple[str, str, npt.NDArray[np.bool_]]]:
    """(name, colour, bool `[C]`) of the groups that have a class, then of classes in no group."""
    found = []
    rest = np.ones(classes, bool)
    for i, (name, indices) in enumerate(groups.items()):
        member = np.zeros(classes, bool)
        member[np.asarray(indices, int)] = True
        rest &= ~member
        if member.any():
            found.append((name, _GROUP_COLORS.get(name, _COLORS[i % len(_COLORS)]), member))
    return [*found, ("in no group", "#777777", rest)] if rest.any() else found


def _bars(axes: Axes, heights: npt.NDArray[np.float64], color: str, label: str) -> None:
    if len(heights) <= _SEPARATE_BARS:
        ranks = np.arange(1, len(heights) + 1)
        axes.bar(ranks, heights, 0.82, color=color, label=_legend_name(label))
    else:
        # One patch for all classes: 8,000 bars would take seconds, and gaps could not be seen.
        edges = np.arange(len(heights) + 1) + 0.5
        axes.stairs(heights, edges, fill=True, baseline=0, color=color, label=_legend_name(label))


def _count_dots(axes: Axes, heights: npt.NDArray[np.float64], color: str, label: str) -> None:
    """Dots that do not hide each other, as large as there is room for."""
    size = next(size for most, size in _COUNT_DOTS.items() if len(heights) <= most)
    ranks = np.arange(1, len(heights) + 1)
    options: dict[str, Any] = {"markersize": size, "markeredgewidth": 0}
    axes.plot(ranks, heights, "o", color=color, label=_legend_name(label), **options)


def _dots(axes: Axes, heights: npt.NDArray[np.float64], color: str, label: str) -> None:
    size, alpha = next(style for most, style in _DOTS.items() if len(heights) <= most)
    axes.plot(
        np.arange(1, len(heights) + 1),
        heights,
        "o",
        color=color,
        markersize=size,
        alpha=alpha,
        markeredgewidth=0,
        label=_legend_name(label),
    )


def _running_mean(
    axes: Axes,
    values: npt.NDArray[np.float64],
    color: str = _INK,
    label: str | None = "running mean over {} classes",
) -> None:
    """A line through class-by-class values; for fewer than ten classes it would say nothing."""
    if len(values) < 10:
        return
    half = max(1, len(values) // 30)
    smooth = _smooth(values, half)
    text = None if label is None else label.format(2 * half + 1)
    ranks = np.arange(1, len(values) + 1)
    halo = [withStroke(linewidth=3.2, foreground="white")]
    axes.plot(ranks, smooth, color=color, linewidth=2, label=text, path_effects=halo)


def _smooth(values: npt.NDArray[np.float64], half: int) -> npt.NDArray[np.float64]:
    """Mean over `half` neighbours on either side, as far as there are any that are not NaN."""
    known = ~np.isnan(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0))])
    sizes = np.concatenate([[0], np.cumsum(known)])
    low = np.maximum(np.arange(len(values)) - half, 0)
    high = np.minimum(np.arange(len(values)) + half + 1, len(values))
    number = sizes[high] - sizes[low]
    total = sums[high] - sums[low]
    return np.divide(total, number, out=np.full(len(values), np.nan), where=number > 0)


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
        values = _smooth(values, half)
    mark = "o" if len(values) <= 20 else None
    axes.plot(x, values, color=color, linewidth=1.9, marker=mark, markersize=3.5, label=label)


def _whole_numbers() -> ticker.MaxNLocator:
    return ticker.MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])


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


def _class_axis(
    axes: Axes, order: npt.NDArray[np.int64], class_names: Sequence[str] | None
) -> None:
    classes = len(order)
    axes.set_xlim(0.4, classes + 0.6)
    if class_names is not None and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names for {classes} classes")
    if class_names is None or classes > _NAMED_CLASSES:
        axes.set_xlabel(
            _shorter("class, by number of training images (1 = most)", "class (1: most images)")
        )
        axes.xaxis.set_major_locator(_whole_numbers())
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        return
    names = [_name(class_names[i], _NAME_LENGTH) for i in order]
    turned = classes > 10 or max(map(len, names)) > 8
    turn: dict[str, Any] = {"rotation": 55, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(1, classes + 1), names, **_name_style(), **(turn if turned else {}))
    axes.set_xlabel("class, most training images first")

"""Figures of classes: training images, accuracies, confusions and weight norms of each."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke

from candle_tf.reporting.plots.style import (
    COLORS,
    NAME_LENGTH,
    add_legend_below,
    figure_with_axes,
    is_narrow,
    label_axes,
    legend_label,
    model_color,
    name_style,
    shorten_name,
    text_for_width,
    whole_number_ticks,
)
from candle_tf.reporting.plots.values import as_series, running_mean

_GROUP_COLORS = {"many": "#2F3A45", "medium": "#7A8794", "few": "#B7C3CF"}
# Names can be read along the axis up to here; bars can be told apart up to there.
_NAMED_CLASSES, _SEPARATE_BARS = 40, 100
# Size of a dot of a class's count, for up to so many classes.
_COUNT_DOTS = {40: 8.0, 200: 5.0, 10**9: 3.5}
# Counts that span so much are shown on a log axis.
_LOG_FACTOR = 10
# Size and opacity of a dot, for up to so many classes.
_DOTS = {200: (4.5, 0.75), 2000: (3.0, 0.6), 10**9: (2.0, 0.35)}


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
    images = as_series("counts", counts)
    if images.max() < 1:
        raise ValueError("no class has a training image: there is nothing to draw")
    figure, axes = figure_with_axes(_class_width(len(images)), 4.2)
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
    label_axes(
        axes,
        f"Training images per class: from {most:,} to {least:,}",
        f"training images{scale}",
    )
    add_legend_below(figure, axes)
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
    images = as_series("counts", counts)
    if not accuracies:
        raise ValueError("the accuracies of at least one model are needed")
    figure, axes = figure_with_axes(7.5, 4.2)
    size, alpha = next(style for most, style in _DOTS.items() if len(images) <= most)
    order = np.argsort(images, kind="stable")
    for i, (name, values) in enumerate(accuracies.items()):
        percent = 100 * as_series(f"accuracy of {name!r}", values, len(images))
        color = model_color(name, i)
        dots: dict[str, Any] = {"markersize": size, "alpha": alpha, "markeredgewidth": 0}
        axes.plot(images, percent, "o", color=color, label=legend_label(name), **dots)
        if len(images) >= 10:
            smooth = running_mean(percent[order], max(1, len(images) // 20))
            halo = [withStroke(linewidth=3.2, foreground="white")]
            axes.plot(images[order], smooth, color=color, linewidth=2, path_effects=halo)
    axes.set_xscale("symlog", linthresh=1)
    axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
    axes.set_xlim(0.8 * max(images.min(), 1), 1.2 * images.max())
    axes.set_ylim(0, 103)
    axes.set_xlabel("training images of the class")
    label_axes(
        axes, "Accuracy of each class, by its number of training images", "test accuracy (%)"
    )
    add_legend_below(figure, axes)
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
    labels = [shorten_name(class_names[c], 10 if is_narrow() else NAME_LENGTH) for c in classes]
    columns = list(labels)
    if len(classes) < len(class_names):
        cells = np.hstack([cells, 100 - cells.sum(axis=1, keepdims=True)])
        columns.append(text_for_width("all others", "others"))
    side = 0.34 * len(labels) + 2.2
    figure, axes = figure_with_axes(min(9.5, max(4.0, side + 0.6)), min(9.0, max(3.4, side)))
    image = axes.imshow(cells, cmap="Greys", vmin=0, vmax=100, aspect="auto")
    if not is_narrow():
        figure.colorbar(image, ax=axes, label="% of the class's test images", shrink=0.8)
    turn: dict[str, Any] = {"rotation": 60, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(columns)), columns, **name_style(), **turn)
    axes.set_yticks(range(len(labels)), labels, **name_style())
    few = len(classes) < len(tested)
    worst = f"{len(classes)} worst classes"
    title = text_for_width(f"Confusions of the {worst}", f"The {worst}") if few else "Confusions"
    label_axes(axes, title, "class")
    axes.set_xlabel("predicted as")
    axes.grid(visible=False)
    axes.tick_params(length=0)
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
    images = as_series("counts", counts)
    if not norms:
        raise ValueError("weight norms of at least one classifier are needed")
    figure, axes = figure_with_axes(7.5, 4.2)
    order = _head_to_tail(images)
    highest = 0.0
    for i, (name, values) in enumerate(norms.items()):
        heights = as_series(f"norms of {name!r}", values, len(images))[order]
        color = model_color(name, i)
        _dots(axes, heights, color, name)
        _draw_running_mean(axes, heights, color)
        highest = max(highest, float(np.nanmax(heights)))
    axes.set_ylim(0, 1.1 * highest if highest else 1)
    _class_axis(axes, order, None)
    label_axes(axes, "Norm of each class's classifier weights, head to tail", "L2 norm of weights")
    add_legend_below(figure, axes)
    return figure


def _class_width(classes: int) -> float:
    return 7.5 if classes <= 20 else 9.5


def _count_label(number: int, one: str, several: str) -> str:
    return f"{number:,} {one if number == 1 else several}"


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
            found.append((name, _GROUP_COLORS.get(name, COLORS[i % len(COLORS)]), member))
    return [*found, ("in no group", "#777777", rest)] if rest.any() else found


def _bars(axes: Axes, heights: npt.NDArray[np.float64], color: str, label: str) -> None:
    if len(heights) <= _SEPARATE_BARS:
        ranks = np.arange(1, len(heights) + 1)
        axes.bar(ranks, heights, 0.82, color=color, label=legend_label(label))
    else:
        # One patch for all classes: 8,000 bars would take seconds, and gaps could not be seen.
        edges = np.arange(len(heights) + 1) + 0.5
        axes.stairs(heights, edges, fill=True, baseline=0, color=color, label=legend_label(label))


def _count_dots(axes: Axes, heights: npt.NDArray[np.float64], color: str, label: str) -> None:
    """Dots that do not hide each other, as large as there is room for."""
    size = next(size for most, size in _COUNT_DOTS.items() if len(heights) <= most)
    ranks = np.arange(1, len(heights) + 1)
    options: dict[str, Any] = {"markersize": size, "markeredgewidth": 0}
    axes.plot(ranks, heights, "o", color=color, label=legend_label(label), **options)


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
        label=legend_label(label),
    )


def _draw_running_mean(axes: Axes, values: npt.NDArray[np.float64], color: str) -> None:
    """A line through class-by-class values; for fewer than ten classes it would say nothing."""
    if len(values) < 10:
        return
    smooth = running_mean(values, max(1, len(values) // 30))
    ranks = np.arange(1, len(values) + 1)
    halo = [withStroke(linewidth=3.2, foreground="white")]
    axes.plot(ranks, smooth, color=color, linewidth=2, path_effects=halo)


def _class_axis(
    axes: Axes, order: npt.NDArray[np.int64], class_names: Sequence[str] | None
) -> None:
    classes = len(order)
    axes.set_xlim(0.4, classes + 0.6)
    if class_names is not None and len(class_names) != classes:
        raise ValueError(f"{len(class_names)} class names for {classes} classes")
    if class_names is None or classes > _NAMED_CLASSES:
        axes.set_xlabel(
            text_for_width(
                "class, by number of training images (1 = most)", "class (1: most images)"
            )
        )
        axes.xaxis.set_major_locator(whole_number_ticks())
        axes.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,.0f}"))
        return
    names = [shorten_name(class_names[i], NAME_LENGTH) for i in order]
    turned = classes > 10 or max(map(len, names)) > 8
    turn: dict[str, Any] = {"rotation": 55, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(1, classes + 1), names, **name_style(), **(turn if turned else {}))
    axes.set_xlabel("class, most training images first")

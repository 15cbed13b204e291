"""How figures are drawn: colours, sizes, titles, legends and names, alike in all of them.

    figure, axes = figure_with_axes(7.5, 4.2)
    axes.plot(values, color=INK)
    label_axes(axes, "Title", "what the y axis shows")
    png = to_png(figure)            # bytes, for a file or for `html.Figure`

Figures are drawn by Agg without `pyplot`: no window, no global state, safe beside a user's own
plots. Classes always run from the head (most training images) to the tail. A colour has one meaning
in all figures: a model (student blue, teacher orange), right or wrong; shot groups are shades of
grey. They are told apart under the common colour-vision deficiencies (Okabe and Ito 2008).
"""

import io
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from absl import logging
from matplotlib import font_manager, ticker
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.legend import Legend
from matplotlib.lines import Line2D

from candle_tf.reporting.table import printable

DPI = 120
# Of models, by the first words of their names; what has no colour of its own gets one of `COLORS`.
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
COLORS = ("#0072B2", "#E69F00", "#009E73", "#882255", "#56B4E9", "#CC79A7", "#555555")
INK, _FAINT = "#222222", "#DDDDDD"
TITLE_SIZE, LABEL_SIZE, _TICK = 12, 10.5, 9.5
NAME_LENGTH = 18
_NARROW_LEGEND, _WIDE_LEGEND = 34, 60
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


def is_narrow() -> bool:
    """Whether figures are drawn for narrow windows now."""
    return _narrow.get()


@contextmanager
def narrow_figures() -> Iterator[None]:
    """Figures drawn within are for windows of 400 CSS pixels."""
    token = _narrow.set(True)
    try:
        yield
    finally:
        _narrow.reset(token)


def blank_figure(width: float, height: float) -> Figure:
    """A figure without axes, of so many inches; in `narrow_figures` at most 3.1 wide."""
    size = (min(width, _NARROW_WIDTH) if is_narrow() else width, height)
    figure = Figure(figsize=size, facecolor="white")
    figure.set_layout_engine("constrained", w_pad=0.08, h_pad=0.08)
    return figure


def figure_with_axes(width: float, height: float) -> tuple[Figure, Axes]:
    """A figure of so many inches, and its only axes."""
    figure = blank_figure(width, height)
    return figure, figure.add_subplot()


def label_axes(axes: Axes, title: str, y_label: str) -> None:
    """The title, the label of the y axis, and sizes and colours of all that is written there."""
    figure = axes.get_figure()
    text = wrap_title(figure, title) if isinstance(figure, Figure) else title
    axes.set_title(text, fontsize=TITLE_SIZE, loc="left", color=INK, parse_math=False)
    axes.set_ylabel(y_label, fontsize=LABEL_SIZE, color=INK)
    axes.xaxis.label.set(fontsize=LABEL_SIZE, color=INK)
    axes.tick_params(which="both", labelsize=_TICK, colors=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def text_for_width(text: str, narrow: str) -> str:
    """The text, or the shorter one in `narrow_figures`."""
    return narrow if is_narrow() else text


def wrap_title(figure: Figure, text: str) -> str:
    """A title in as many lines as the figure's width asks for."""
    return textwrap.fill(shorten_name(text, 200), max(20, int(9 * figure.get_figwidth())))


def model_color(name: str, place: int) -> str:
    """The colour of a model's kind; by its place among those drawn where the kind has none."""
    found = [color for start, color in _MODEL_COLORS.items() if name.startswith(start)]
    # A second model of a kind must not look like the first.
    return found[0] if found and place < len(_MODEL_COLORS) + 1 else COLORS[place % len(COLORS)]


def run_color(place: int) -> str:
    """Colour of a run among several, in all figures of their comparison."""
    return COLORS[place % len(COLORS)]


def add_legend(axes: Axes) -> None:
    """A legend within the axes, where it hides least."""
    _readable(axes.legend(loc="best", fontsize=_TICK, labelcolor=INK, framealpha=0.85))


def add_legend_below(figure: Figure, axes: Axes) -> None:
    """For images whose bars or dots fill the axes: nothing may be hidden."""
    handles, labels = axes.get_legend_handles_labels()
    letters = 11.5 * figure.get_figwidth()
    in_one_row = sum(len(label) + 6 for label in labels) <= letters
    longest = max(map(len, labels)) + 6
    columns = len(labels) if in_one_row else max(1, int(letters / longest))
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    legend = figure.legend(handles, labels, fontsize=_TICK, labelcolor=INK, **place)
    for text in legend.get_texts():
        text.set(**name_style())
    _readable(legend)


def _readable(legend: Legend) -> None:
    """Faint dots, of which an image holds thousands, are shown large and opaque in the legend."""
    for handle in legend.legend_handles:
        if isinstance(handle, Line2D) and handle.get_linestyle() == "None":
            handle.set(alpha=1.0, markersize=6)


def shorten_name(text: str, length: int = 40) -> str:
    """A name fit to be drawn: on one line, not longer than `length`."""
    line = printable(text)
    return line if len(line) <= length else line[: length - 1] + "…"


def legend_label(text: str) -> str:
    """A name fit for a legend; what is too long has its middle left out, as runs differ at the end.

    Matplotlib leaves what begins with an underscore out of its legends.
    """
    line = printable(text).lstrip("_")
    length = _NARROW_LEGEND if is_narrow() else _WIDE_LEGEND
    if len(line) <= length:
        return line
    tail = 2 * length // 3
    return f"{line[: length - tail - 1]}…{line[-tail:]}"


def name_style() -> dict[str, Any]:
    """Names are drawn as they stand: a dollar sign in one does not start a formula."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    return {"parse_math": False, "fontfamily": [f for f in _NAME_FONTS if f in installed]}


def whole_number_ticks() -> ticker.MaxNLocator:
    """Ticks at whole numbers alone, as of epochs."""
    return ticker.MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])

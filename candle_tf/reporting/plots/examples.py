"""Figures of images with the names of their true and predicted classes."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from candle_tf.reporting.plots.style import INK, TITLE_SIZE, blank_figure, name_style, shorten_name

_RIGHT, _WRONG = "#0072B2", "#B23A00"


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
    figure = blank_figure(max(4.5, 1.7 * columns), 2.1 * rows + 0.5)
    right = sum(t == p for t, p in zip(true, predicted, strict=True))
    title = f"Test images: {right} right, {len(images) - right} wrong (✗: what was predicted)"
    figure.suptitle(title, fontsize=TITLE_SIZE, color=INK)
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
    verdict = "✓" if right else f"✗ {shorten_name(guess, 17)}"
    options: dict[str, Any] = {"fontsize": 8.5, "color": _RIGHT if right else _WRONG, "pad": 3}
    axes.set_title(f"{shorten_name(truth, 19)}\n{verdict}", **options, **name_style())

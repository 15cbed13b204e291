"""Plots: PNGs that decode, have their size, are not blank, and show what they were given."""

import io
import subprocess
import sys
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from matplotlib.colors import to_hex
from PIL import Image

from candle_tf.methods.registry import FEATURE_LOSSES, LOGIT_LOSSES
from candle_tf.metrics import reliability, softmax
from candle_tf.reporting.plots.accuracy import accuracy_bars, reliability_diagram
from candle_tf.reporting.plots.classes import _GROUP_COLORS, class_counts, weight_norms
from candle_tf.reporting.plots.examples import example_grid
from candle_tf.reporting.plots.style import DPI, narrow_figures, to_png
from candle_tf.reporting.plots.training import balance_curves, training_curves
from candle_tf.reporting.plots.values import running_mean

ODD_NAMES = ["Ærøskøbing", "$\\frac{", "<script>", "_hidden", "a\nb\x1b[0m\udcff"]


def _case(classes):
    """Counts, shot groups (any of them may be empty), accuracies and names of so many classes."""
    counts = np.array([int(300 * 100 ** (-c / (classes - 1))) for c in range(classes)])
    groups = {
        "many": np.flatnonzero(counts > 100),
        "medium": np.flatnonzero((counts >= 20) & (counts <= 100)),
        "few": np.flatnonzero(counts < 20),
    }
    accuracy = np.linspace(0.9, 0.1, classes)
    names = [ODD_NAMES[c] if c < len(ODD_NAMES) else f"class {c}" for c in range(classes)]
    return counts, groups, accuracy, names


def _pixels(figure):
    """Decodes the figure's PNG; it has the size asked for and is more than paper."""
    image = Image.open(io.BytesIO(to_png(figure)))
    image.load()
    assert image.format == "PNG"
    assert image.size == tuple(int(side * DPI) for side in figure.get_size_inches())
    pixels = np.asarray(image.convert("RGB"))
    assert (pixels != 255).any(axis=2).mean() > 0.01
    return pixels


def _share(pixels, color):
    rgb = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return (pixels == rgb).all(axis=2).mean()


def _legend_texts(figure):
    legends = [*figure.legends, *(a.get_legend() for a in figure.axes if a.get_legend())]
    return [text.get_text() for legend in legends for text in legend.get_texts()]


@pytest.mark.parametrize("classes", [2, 10, 41, 100, 1000])
def test_images_of_classes_are_drawn_for_few_and_for_many(classes):
    counts, groups, accuracy, names = _case(classes)
    for figure in (
        class_counts(counts, groups, names),
        weight_norms({"Adam": accuracy, "SGD": 1 - accuracy}, counts),
    ):
        _pixels(figure)


def test_colours_show_the_groups_and_an_empty_one_is_left_out():
    counts = np.array([500, 200, 60])
    groups = {"many": [0, 1], "medium": [2], "few": []}
    figure = class_counts(counts, groups)
    pixels = _pixels(figure)
    many, medium, few = (_share(pixels, _GROUP_COLORS[g]) for g in groups)
    assert many > medium > 0.01
    assert few == 0
    assert _legend_texts(figure) == ["many: 2 classes", "medium: 1 class"]


def test_classes_run_from_head_to_tail_with_their_names():
    counts = np.array([5, 500, 50])
    groups = {"many": [1], "medium": [2], "few": [0]}
    axes = class_counts(counts, groups, ["tail", "head", "middle"]).axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["head", "middle", "tail"]
    assert axes.get_yscale() == "log"


def test_counts_over_orders_of_magnitude_are_dots_on_a_log_axis():
    counts = np.array([5, 500, 50, 0])
    axes = class_counts(counts, {"many": [1], "few": [0, 2]}).axes[0]
    assert axes.get_yscale() == "log"
    assert "log axis" in axes.get_ylabel()
    assert not axes.patches
    dots = {
        line.get_label().partition(":")[0]: line.get_ydata()[~np.isnan(line.get_ydata())].tolist()
        for line in axes.lines
    }
    assert dots == {"many": [500], "few": [50, 5], "in no group": []}
    colors = {line.get_label().partition(":")[0]: line.get_color() for line in axes.lines}
    assert [colors[group] for group in ("many", "few")] == [
        _GROUP_COLORS[group] for group in ("many", "few")
    ]


@pytest.mark.parametrize("classes", [3, 200])
def test_counts_that_are_alike_are_bars_from_0(classes):
    counts = np.linspace(99, 10, classes).astype(int)
    axes = class_counts(counts, {"many": np.arange(classes)}).axes[0]
    assert axes.get_yscale() == "linear"
    assert "log" not in axes.get_ylabel()
    assert axes.get_ylim()[0] == 0
    assert axes.patches
    assert not axes.lines


def test_a_class_in_no_group_is_shown_as_such():
    texts = _legend_texts(class_counts([300, 40], {"many": [0]}))
    assert texts == ["many: 1 class", "in no group: 1 class"]


def test_running_mean_passes_over_untested_classes():
    values = np.array([1.0, np.nan, 3.0, 5.0, np.nan])
    smooth = running_mean(values, 1)
    expected = [np.nanmean(values[max(i - 1, 0) : i + 2]) for i in range(5)]
    np.testing.assert_allclose(smooth, expected)
    assert np.isnan(running_mean(np.array([np.nan, np.nan, np.nan]), 1)).all()


def test_accuracy_bars_leave_out_groups_that_no_model_has_and_mark_the_others():
    rows = [
        {"model": "_teacher $x", "mean": 0.861, "many": 0.9, "bytes": 10},
        {"model": "student", "mean": 0.5, "many": 0.6, "medium": 0.0},
    ]
    figure = accuracy_bars(rows)
    _pixels(figure)
    axes = figure.axes[0]
    shown = [tick.get_text() for tick in axes.get_xticklabels()]
    assert shown == ["mean", "many-shot", "medium-shot"]
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["86.1", "90.0", "–", "50.0", "60.0", "0.0"]
    assert _legend_texts(figure) == ["teacher $x", "student"]


def test_values_are_left_out_where_they_would_hide_each_other():
    rows = [{"model": f"run {i}", "mean": 0.5, "many": 0.5, "few": 0.1} for i in range(7)]
    assert len(accuracy_bars(rows).axes[0].texts) == 21
    with narrow_figures():
        assert not accuracy_bars(rows).axes[0].texts
        assert len(accuracy_bars(rows[:3]).axes[0].texts) == 9


def test_long_names_that_differ_at_the_end_differ_in_the_legend():
    names = [f"teacher of reactnet_a 0.5, candle ({each})" for each in ("first_try", "other_rate")]
    rows = [{"model": name, "mean": 0.5} for name in names]
    assert _legend_texts(accuracy_bars(rows)) == names
    with narrow_figures():
        texts = _legend_texts(accuracy_bars(rows))
    assert [text.partition("…")[0] for text in texts] == ["teacher of "] * 2
    for text, name in zip(texts, names, strict=True):
        assert len(text) == 34
        assert name.endswith(text.partition("…")[2])


def test_many_models_can_be_told_apart():
    rows = [{"model": f"method {i}", "mean": 0.5} for i in range(12)]
    figure = accuracy_bars(rows)
    _pixels(figure)
    styles = {(to_hex(bar.get_facecolor()), bar.get_hatch()) for bar in figure.axes[0].patches}
    assert len(styles) == 12


def test_training_curves_pair_training_and_validation():
    series = {"loss": [3, 2, 1], "accuracy": [0.1, 0.2, 0.3], "val_loss": [3, 3], "val_auc": [1]}
    figure = training_curves(series)
    _pixels(figure)
    panels = {axes.get_ylabel(): axes for axes in figure.axes}
    assert list(panels) == ["loss", "accuracy (%)", "auc"]
    training, validation = panels["loss"].lines
    assert training.get_xydata().tolist() == [[1, 3], [2, 2], [3, 1]]
    assert validation.get_xydata().tolist() == [[1, 3], [2, 3]]
    assert panels["accuracy (%)"].lines[0].get_ydata().tolist() == pytest.approx([10, 20, 30])


@pytest.mark.parametrize("steps", [1, 8, 3000])
def test_balance_curves(steps):
    lambdas = np.linspace(0.2, 0.8, steps)
    figure = balance_curves(lambdas, 5 - lambdas, lambdas / 100, unit="step")
    _pixels(figure)
    upper, lower = figure.axes
    assert lower.get_xlabel() == "step"
    # The small term would lie on the ground of a linear axis.
    assert lower.get_yscale() == "log"
    np.testing.assert_allclose(upper.lines[0].get_ydata(), lambdas)


@pytest.mark.parametrize(
    ("named", "loss", "weight"),
    [
        ({}, "loss (nats; 1 − cos)", "λ (weight of KL)"),
        ({"feature_loss": "r2"}, "loss (nats; 1 − R²)", "λ (weight of KL)"),
        ({"feature_loss": "source_kl"}, "loss (nats)", "λ (weight of KL)"),
        ({"logit_loss": "dist"}, "loss (4 (1 − mean ρ); 1 − cos)", "λ (weight of DIST)"),
        ({"logit_loss": "standardized", "feature_loss": "r2"}, "loss (9 × nats; 1 − R²)",
         "λ (weight of standardized KL)"),
        ({"logit_loss": "mine", "feature_loss": "yours"}, "loss", "λ (weight of mine)"),
    ],
)  # fmt: skip
def test_balance_curves_say_which_losses_they_are_of(named, loss, weight):
    figure = balance_curves([0.5, 0.6], [4.0, 2.0], [0.5, 0.4], **named)
    _pixels(figure)
    upper, lower = figure.axes
    assert (upper.get_ylabel(), lower.get_ylabel()) == (weight, loss)
    assert len({line.get_label() for line in lower.lines}) == 2


@pytest.mark.parametrize("loss", LOGIT_LOSSES)
def test_every_logit_loss_has_a_unit(loss):
    figure = balance_curves([0.5], [4.0], [0.5], logit_loss=loss, feature_loss="yours")
    assert figure.axes[1].get_ylabel() != "loss"


@pytest.mark.parametrize("loss", FEATURE_LOSSES)
def test_every_feature_loss_has_a_unit(loss):
    figure = balance_curves([0.5], [4.0], [0.5], logit_loss="yours", feature_loss=loss)
    assert figure.axes[1].get_ylabel() != "loss"


def test_balance_curves_with_a_zero_term_keep_a_linear_axis():
    figure = balance_curves([0.5, 0.5], [4.0, 2.0], [0.0, 0.0])
    _pixels(figure)
    assert figure.axes[1].get_yscale() == "linear"


def test_reliability_diagram_says_its_error_and_takes_empty_bins():
    probabilities = softmax(np.array([[3.0, 0.0], [0.0, 3.0], [0.2, 0.0]]))
    bins = reliability(probabilities, [0, 0, 1])
    figure = reliability_diagram(bins)
    _pixels(figure)
    assert f"{100 * bins.expected_calibration_error:.1f} %" in figure.axes[0].get_title("left")


def test_example_grid_shows_the_images_and_names():
    random = np.random.default_rng(0)
    images = [
        random.integers(0, 256, shape, dtype=np.uint8)
        for shape in ((8, 8, 3), (40, 20, 1), (300, 200), (120, 160, 3))
    ]
    figure = example_grid(images, ODD_NAMES[:4], [*ODD_NAMES[:3], "x" * 99], columns=3)
    _pixels(figure)
    assert figure.get_suptitle().startswith("Test images: 3 right, 1 wrong")
    titles = [axes.get_title() for axes in figure.axes]
    assert titles[0] == "Ærøskøbing\n✓"
    assert titles[3].startswith("_hidden\n✗ xxx")
    assert titles[3].endswith("…")
    assert titles[4:] == ["", ""]
    np.testing.assert_array_equal(figure.axes[0].images[0].get_array(), images[0])


def test_a_black_image_stays_black():
    figure = example_grid([np.zeros((8, 8), np.uint8)], ["a"], ["a"])
    assert _share(_pixels(figure), "#000000") > 0.05


def test_unfit_input_is_refused_with_its_shape():
    counts, groups, _, names = _case(10)
    with pytest.raises(ValueError, match="9 class names for 10 classes"):
        class_counts(counts, groups, names[:9])
    with pytest.raises(ValueError, match="no class has a training image"):
        class_counts([0, 0], {})
    with pytest.raises(ValueError, match=r"kl of shape \(3,\).*\(2,\)"):
        balance_curves([0.5, 0.5], [1, 2, 3], [1, 2])
    with pytest.raises(ValueError, match="no row has an accuracy"):
        accuracy_bars([{"model": "a"}])
    with pytest.raises(ValueError, match="at least one epoch"):
        training_curves({"loss": []})
    with pytest.raises(ValueError, match="at least one classifier"):
        weight_norms({}, counts)
    with pytest.raises(ValueError, match="uint8, 0 to 255, not float64"):
        example_grid([np.zeros((4, 4, 3))], ["a"], ["b"])
    with pytest.raises(ValueError, match="1 images, 2 true and 1 predicted"):
        example_grid([np.zeros((4, 4, 3), np.uint8)], ["a", "b"], ["b"])


def test_nothing_global_is_touched():
    before = dict(matplotlib.rcParams)
    _pixels(training_curves({"loss": [1.0, 2.0]}))
    assert dict(matplotlib.rcParams) == before


def test_pyplot_and_its_windows_stay_out():
    code = """
import sys
from candle_tf.reporting.plots.accuracy import accuracy_bars, reliability_diagram
from candle_tf.reporting.plots.classes import _GROUP_COLORS, class_counts, weight_norms
from candle_tf.reporting.plots.examples import example_grid
from candle_tf.reporting.plots.style import DPI, narrow_figures, to_png
from candle_tf.reporting.plots.training import balance_curves, training_curves
from candle_tf.reporting.plots.values import running_mean
to_png(training_curves({"loss": [1.0, 2.0]}))
sys.exit("matplotlib.pyplot" in sys.modules)
"""
    root = Path(__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0

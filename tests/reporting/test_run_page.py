"""report.html as a whole: what is in it, in which order, and how a browser shows it."""

import dataclasses
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from candle_tf.metrics import confusion_matrix
from candle_tf.reporting import run_page
from candle_tf.reporting.class_table import class_table, wilson_interval
from candle_tf.reporting.mistakes import confident_mistakes, mistakes_by_class
from candle_tf.reporting.plots.accuracy import accuracy_against_cost
from candle_tf.reporting.plots.classes import class_counts, confusion_heatmap
from candle_tf.reporting.plots.style import DPI, narrow_figures
from candle_tf.reporting.plots.training import balance_curves
from candle_tf.reporting.table import ABSENT
from candle_tf.train import closing_text
from tests.reporting.browser import BROWSER, check_widths, measure_page
from tests.reporting.made_run import write_made_report


class _Headings(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.found, self._inside = [], False
        self.feed(text)

    def handle_starttag(self, tag, attrs):  # noqa: ARG002
        self._inside = tag == "h2"

    def handle_data(self, data):
        if self._inside:
            self.found.append(data)
            self._inside = False


@pytest.fixture(scope="module", params=[2, 101, 1000])
def made(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp("made")
    return folder, request.param, write_made_report(folder, request.param)


def test_questions_come_in_the_order_in_which_they_are_asked(made):
    folder, _, _ = made
    assert _Headings((folder / "report.html").read_text()).found == [
        "What to ship, and how good it is",
        "Which classes fail",
        "Is the tail better",
        "Did it converge",
        "Can its confidence be trusted",
        "Cost on a device",
        "Data",
        "Settings",
    ]


def test_the_page_is_no_larger_than_a_mail_allows(made):
    folder, _, _ = made
    assert (folder / "report.html").stat().st_size < 5_000_000


def test_classes_without_test_images_are_named_below_the_table(tmp_path):
    results = write_made_report(tmp_path, 7, untested=1)
    text = (tmp_path / "report.html").read_text()
    sentence = "1 class has no test images and is not in the means: class 6."
    assert sentence in text
    assert text.index("</table>") < text.index(sentence) < text.index("All models that were")
    printed = closing_text(tmp_path, results)
    assert printed.index("student in Keras") < printed.index(sentence)
    assert "no test images" not in closing_text(tmp_path, write_made_report(tmp_path, 7))
    assert "no test images" not in (tmp_path / "report.html").read_text()


def test_top_5_is_one_line_where_there_are_more_than_ten_classes(made):
    folder, classes, results = made
    text = (folder / "report.html").read_text()
    assert text.count("Top-5") == (classes > 10)
    if classes > 10:
        student = 100 * results.metrics["student"].top_5
        assert re.search(rf"Top-5, mean over classes: .*student as LCE file {student:.1f} %", text)


@pytest.mark.parametrize(
    ("stages", "titles"),
    [
        (1, ["The student"]),
        (2, ["The student (first stage)", "The classifier (second stage)"]),
    ],
)
def test_each_stage_of_the_training_is_shown_under_its_own_name(tmp_path, stages, titles):
    write_made_report(tmp_path, 7, stages=stages)
    text = (tmp_path / "report.html").read_text()
    shown = [f"{title}: training and validation by epoch" for title in titles]
    assert re.findall(r'alt="([^"]*: training and validation by epoch)"', text) == shown
    # Lambda is of the stage that trained the whole student.
    assert 'alt="Lambda and both losses by step"' in text


def test_the_axis_of_the_losses_is_of_those_that_the_run_had(tmp_path, monkeypatch):
    results, drawn, draw_curves = write_made_report(tmp_path, 7), [], balance_curves

    def keep(*values, **named):
        drawn.append(draw_curves(*values, **named))
        return drawn[-1]

    monkeypatch.setattr(run_page, "balance_curves", keep)
    for losses, label in (
        ({}, "loss (nats; 1 − cos)"),
        ({"logit_loss": "dist", "feature_loss": "r2"}, "loss (4 (1 − mean ρ); 1 − R²)"),
    ):
        run = dataclasses.replace(results, config={**results.config, **losses})
        run_page._training(run, tmp_path)
        assert drawn[-1].axes[1].get_ylabel() == label


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_a_browser_shows_it_without_scrolling_sideways_or_errors(made, tmp_path):
    folder, classes, _ = made
    sizes = measure_page(folder / "report.html", tmp_path)
    check_widths(sizes)
    for size in sizes:
        # The script that sorts is allowed to run.
        assert size["sort"] == "ascending"
        assert size["count"] == classes


def test_the_class_table_begins_with_the_worst_class(made):
    _, classes, results = made
    labels = np.repeat(np.arange(classes), 2)
    predicted = labels.copy()
    predicted[2:4] = 0
    table = class_table(results, confusion_matrix(labels, predicted, classes))
    names = list(results.split["train_counts"])
    first = dict(zip(table.columns, table.rows[0], strict=True))
    assert first["class"] == names[1]
    assert first["mostly taken for"] == f"{names[0]} (2)"
    assert (first["%"], first["precision %"], first["F1 %"]) == ("0.0", ABSENT, "0.0")
    of_first = next(row for row in table.rows if row[0] == names[0])
    of_first = dict(zip(table.columns, of_first, strict=True))
    # Two of four images are of the class that they are taken for: F1 is 2 / (1 + 2).
    assert (of_first["precision %"], of_first["F1 %"]) == ("50.0", "66.7")
    assert len(table.rows) == classes


@pytest.mark.parametrize(("right", "total"), [(0, 5), (5, 5), (3, 7), (500, 1000)])
def test_the_interval_solves_wilsons_equation(right, total):
    """Its ends p are where (share - p)^2 = z^2 p (1 - p) / n."""
    z = 1.959964
    for end in wilson_interval(right, total):
        assert (right / total - end) ** 2 == pytest.approx(z**2 * end * (1 - end) / total, abs=1e-9)


def test_mistakes_are_chosen_by_confidence_and_by_class():
    labels = np.array([0, 0, 1, 1, 2, 2])
    logits = np.full((6, 3), -5.0)
    predicted = np.array([1, 0, 0, 0, 2, 1])
    logits[np.arange(6), predicted] = [1.0, 9.0, 7.0, 8.0, 9.0, 5.0]
    pixels = np.zeros((6, 4, 4, 3), np.uint8)
    names = ["a", "b", "c"]
    sure = confident_mistakes(labels, logits, pixels, names)
    assert [figure.caption.partition(" (")[0] for figure in sure.figures] == [
        *("b, taken for a", "c, taken for b", "a, taken for b")
    ]
    worst = mistakes_by_class(labels, logits, pixels, names)
    assert worst.figures[0].caption.startswith("b, taken for a")
    assert len(worst.figures) == 3
    none = confident_mistakes(labels, np.eye(3)[labels], pixels, names)
    assert "No test image" in none.caption


def test_a_heatmap_holds_shares_of_the_worst_classes_and_the_rest():
    matrix = np.array([[8, 2, 0], [1, 1, 2], [0, 0, 5]])
    figure = confusion_heatmap(matrix, ["a", "b", "c"], most=2)
    cells = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(cells, [[80, 20, 0], [25, 25, 50]])
    with pytest.raises(ValueError, match="no class has a test image"):
        confusion_heatmap(np.zeros((2, 2)), ["a", "b"], most=2)


def test_narrow_figures_are_narrow():
    counts = np.array([100, 10])
    wide = class_counts(counts, {})
    with narrow_figures():
        narrow = class_counts(counts, {})
    assert narrow.get_figwidth() * DPI <= 400 < wide.get_figwidth() * DPI


def test_costs_and_accuracies_are_of_the_same_models():
    figure = accuracy_against_cost({"a": 1e6}, {"a": 0.5}, "size (bytes)")
    assert figure.axes[0].get_xscale() == "log"
    assert figure.axes[0].lines[0].get_xydata().tolist() == [[1e6, 50.0]]
    with pytest.raises(ValueError, match="accuracies"):
        accuracy_against_cost({"a": 1e6}, {"b": 0.5}, "size (bytes)")

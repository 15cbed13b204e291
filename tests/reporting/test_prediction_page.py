"""The page of candle_tf.predict."""

from dataclasses import dataclass

import numpy as np
import pytest

from candle_tf.reporting.predictions import write_page
from tests.reporting.browser import BROWSER, check_widths, measure_page


@dataclass(frozen=True)
class Row:
    """One image, as `candle_tf.stages.predict.Prediction` has it."""

    name: str
    classes: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    error: str = ""
    image: np.ndarray | None = None


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    rng = np.random.default_rng(0)
    rows = [
        Row(
            f"photos/a_long_name_of_a_file_without_a_blank_in_it_{i}.jpg",
            ("0", "a_rather_long_name_of_a_class_without_a_blank_in_it"),
            (0.914, 0.086),
            image=rng.integers(0, 256, (32, 32, 3), np.uint8),
        )
        for i in range(30)
    ]
    bad = Row("photos/" + "b" * 100 + ".jpg", error="photos/" + "b" * 100 + ".jpg: is damaged")
    path = tmp_path_factory.mktemp("page") / "page.html"
    write_page(path, "Predictions of runs/" + "c" * 90, [*rows, bad])
    return path


def test_images_are_told_with_their_classes_and_bad_files_with_their_reason(page):
    text = page.read_text()
    assert text.count("<img") == 30
    assert "0 (91 %), a_rather_long_name_of_a_class_without_a_blank_in_it (9 %)" in text
    assert "is damaged" in text
    # Images stand beside each other.
    assert text.count('class="gallery"') == 1


@pytest.mark.skipif(not BROWSER, reason="no Chromium is installed")
def test_a_browser_shows_it_without_scrolling_sideways_or_errors(page, tmp_path):
    check_widths(measure_page(page, tmp_path))

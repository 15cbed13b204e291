"""What the benchmark of validation times; no figure is asserted."""

import numpy as np

from tests.native.availability import needs_native
from tools.benchmarks import validation
from tools.benchmarks.workload import Workload

SMALL = Workload(width=0.125, image_size=32, batch_size=4, classes=3, steps=2)


@needs_native
def test_both_parts_are_timed_on_both_sides():
    figures = validation.validation_ratios(SMALL, repeats=3)
    assert list(figures) == ["validation_ratio", "statistics_ratio"]
    for figure in figures.values():
        quotients = np.divide(figure["seconds"]["plain"], figure["seconds"]["ours"])
        np.testing.assert_allclose(figure["median"], np.median(quotients))
        assert len(quotients) == 3
        np.testing.assert_allclose(
            sorted(figure["images_per_s"].values()),
            sorted(np.median(8 / np.asarray(times)) for times in figure["seconds"].values()),
        )

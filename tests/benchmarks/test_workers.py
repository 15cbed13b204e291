"""One process and two workers take the same steps; no time is asserted."""

import numpy as np

from tools.bench import table_of
from tools.benchmarks.workers import workers_ratio
from tools.benchmarks.workload import Workload

LOAD = Workload("quicknet_small", 0.125, image_size=32, batch_size=4, classes=3, steps=1)


def test_two_workers_are_compared_with_one_process():
    figure = workers_ratio(LOAD, repeats=1)
    one, two = (figure["seconds"][side][0] for side in ("one process", "2 workers"))
    np.testing.assert_allclose(figure["median"], one / two)
    np.testing.assert_allclose(figure["overhead"], 1 - one / two)
    assert "overhead" in table_of({"one_over_two_workers": figure})

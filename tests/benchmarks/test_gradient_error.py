import candle_tf  # noqa: F401  (selects Keras 2 before TensorFlow is imported)

# isort: split
import numpy as np
import pytest

from candle_tf.native import convolution
from tests.native.availability import needs_native
from tools.benchmarks import gradient_error
from tools.benchmarks.gradient_error import gradient_errors
from tools.benchmarks.workload import Workload, noise_subset

LOAD = Workload("quicknet_small", 0.5, image_size=32, batch_size=4, classes=3)


@needs_native
def test_both_ways_are_near_float32_and_the_bound_is_as_before():
    before = convolution.LOOKUP_CHANNELS
    errors = gradient_errors(LOAD, noise_subset(4, 3, 32))
    assert convolution.LOOKUP_CHANNELS is before
    assert set(errors) == {"lookup tables", "Winograd"}
    # Two ways, on every CPU: also where one of them is never taken, as it is slower.
    assert errors["lookup tables"] != errors["Winograd"]
    for error in errors.values():
        assert 0 < error["min"] <= error["median"] <= error["max"] < 0.2


def test_an_error_is_relative_to_the_gradient():
    exact = {"a": np.array([3.0, 4.0]), "b": np.array([1.0, 1.0]), "c": np.array([2.0])}
    rounded = {"a": np.array([3.0, 4.5]), "b": np.array([1.0, 1.0]), "c": np.array([4.0])}
    found = gradient_error._summary(exact, rounded)
    assert found == {"median": pytest.approx(0.1), "min": 0.0, "max": pytest.approx(1.0)}

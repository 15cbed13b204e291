import os

import pytest

from tools.benchmarks.settings import batch_size_times, thread_settings, thread_times
from tools.benchmarks.workload import Workload

LOAD = Workload(
    "quicknet_small", 0.125, image_size=32, batch_size=4, classes=3, steps=1, feature_size=6
)


def test_batch_sizes_are_compared_with_the_first():
    times = batch_size_times(LOAD, sizes=(2, 4), repeats=2)
    assert list(times) == ["2", "4"]
    assert times["2"]["median"] == times["2"]["min"] == times["2"]["max"] == 1
    assert times["4"]["median"] > 0
    assert times["4"]["median"] != 1


def test_threads_are_compared_with_tensorflows_choice():
    cores = len(os.sched_getaffinity(0))
    settings = thread_settings()
    assert next(iter(settings)) == "default"
    assert settings["default"] == (0, 0)
    assert {"1x1", f"{cores}x1", f"{cores}x{cores}"} <= set(settings)
    assert settings[f"{cores}x1"] == (cores, 1)
    times = thread_times(LOAD, {name: settings[name] for name in ("default", "1x1")}, repeats=1)
    assert list(times) == ["default", "1x1"]
    assert times["default"]["median"] == 1
    assert all(each["units_per_s"] > 0 for each in times.values())


def test_a_process_that_fails_is_told():
    with pytest.raises(RuntimeError, match="ended with code 1"):
        thread_times(Workload("no_such_student", steps=1), {"default": (0, 0)}, repeats=1)

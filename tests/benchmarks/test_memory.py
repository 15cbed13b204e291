import mmap

import pytest

from tools.benchmarks import memory
from tools.benchmarks.workload import Workload

LOAD = Workload(
    "quicknet_small", 0.125, image_size=32, batch_size=4, classes=3, steps=2, feature_size=6
)


def test_the_records_of_the_system_follow_what_is_held():
    before = memory.resident()
    # Of its own: an array might get pages that the process had and freed before.
    pages = mmap.mmap(-1, 50_000_000)
    pages.write(b"x" * len(pages))
    assert memory.resident() - before > 40
    assert memory.peak() >= memory.resident() - 1
    pages.close()
    assert memory.resident() - before < 20
    assert memory.peak() - before > 40


def test_a_training_tells_its_memory_after_each_epoch():
    told = memory.training_memory(LOAD, epochs=3)
    assert len(told["peak"]) == len(told["now"]) == 3
    assert told["peak"] == sorted(told["peak"])
    # TensorFlow alone takes some hundred MB.
    assert 100 < told["before"] < told["peak"][0]
    assert told["growth"] == told["now"][2] - told["now"][1]


def test_a_training_that_fails_is_told():
    with pytest.raises(RuntimeError, match="ended with code 1"):
        memory.training_memory(Workload("no_such_student", steps=1), epochs=3)

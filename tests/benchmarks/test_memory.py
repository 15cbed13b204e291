import json
import subprocess
import sys

import pytest

from tools.benchmarks import memory
from tools.benchmarks.workload import Workload

LOAD = Workload(
    "quicknet_small", 0.125, image_size=32, batch_size=4, classes=3, steps=2, feature_size=6
)


# Of its own: an array might get pages that the process had and freed before.
HOLD = """
import json, mmap
from tools.benchmarks import memory

before = memory.resident()
pages = mmap.mmap(-1, 50_000_000)
for _ in range(50):
    pages.write(bytes(1_000_000))
held, peak_held = memory.resident(), memory.peak()
pages.close()
freed, peak_freed = memory.resident(), memory.peak()
print(json.dumps([held - before, peak_held - held, freed - before, peak_freed - before]))
"""


def test_the_records_of_the_system_follow_what_is_held():
    # In a new process: what threads of earlier tests allocate meanwhile would count here.
    done = subprocess.run([sys.executable, "-c", HOLD], capture_output=True, text=True, check=True)
    held, peak_over_held, freed, peak = json.loads(done.stdout)
    assert 40 < held < 60
    assert peak_over_held >= -1
    assert freed < 20
    assert 40 < peak < 70


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

import os
import subprocess
import sys
from pathlib import Path

import candle_tf
from tests.native.availability import needs_native

pytestmark = needs_native


def _digest(threads: int) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.native.digest"],
        cwd=Path(candle_tf.__file__).parents[1],
        env={**os.environ, "TF_NUM_INTRAOP_THREADS": str(threads)},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip().splitlines()[-1]


def test_results_are_the_same_bits_with_any_number_of_threads_and_in_every_repeat():
    digests = {threads: _digest(threads) for threads in (1, 2, 5)}
    assert len(digests[1].split()) == 1
    assert len(set(digests.values())) == 1

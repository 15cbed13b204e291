"""Benchmarks of a source checkout: `python -m candle_tf.bench` is `python -m tools.bench`."""

import runpy
import sys
from importlib.util import find_spec


def main() -> None:
    """Runs `tools.bench`, or says where it is to be found."""
    if find_spec("tools.bench") is None:
        sys.exit("error: The benchmarks are in a source checkout only; run this in its top folder.")
    runpy.run_module("tools.bench", run_name="__main__")


if __name__ == "__main__":
    main()

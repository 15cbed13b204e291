"""Latency of files on this machine, as ratios of times measured in turn.

ratio = measure_latency({"tflite": lce, "tflite_float": reference}, pixels, baseline="tflite_float")
"""

import os
import platform
import statistics
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from candle_tf.deploy.tflite.interpreters import Interpreter
from candle_tf.timing import alternate, ratio_of


def measure_latency(
    sides: Mapping[str, Interpreter],
    pixels: np.ndarray | Mapping[str, np.ndarray],
    baseline: str,
    repeats: int = 15,
) -> dict[str, Any]:
    """Times loaded files on one image after another, in turn.

    Args:
        sides: loaded files by name.
        pixels: of their shape and type, `[N, H, W, 3]`, for all sides or by side; a round runs
            through all N.
        baseline: the side that the others are compared with.
        repeats: rounds.

    Returns:
        "machine"; and by side "median_ms" of one image, and "ratio" to the baseline's time in the
        same round with "ratio_min" and "ratio_max".
    """
    given = pixels if isinstance(pixels, Mapping) else dict.fromkeys(sides, pixels)
    count = len(given[baseline])

    def side(name: str, interpreter: Interpreter) -> Callable[[], None]:
        images = [given[name][number : number + 1] for number in range(count)]

        def work() -> None:
            for image in images:
                interpreter(image)

        return work

    seconds = alternate({name: side(name, each) for name, each in sides.items()}, repeats=repeats)
    result: dict[str, Any] = {"machine": machine(), "threads": 1, "baseline": baseline}
    for name, times in seconds.items():
        ratio = ratio_of(times, seconds[baseline])
        result[name] = {
            "median_ms": 1000 * statistics.median(times) / count,
            "ratio": ratio.median,
            "ratio_min": ratio.min,
            "ratio_max": ratio.max,
        }
    return result


def machine() -> str:
    """The processor, how many of it, and the system."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        model = lines[0].partition(":")[2].strip() if lines else model
    return f"{model}, {os.cpu_count()} processors, {platform.system()} {platform.machine()}"

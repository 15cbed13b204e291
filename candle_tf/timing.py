"""Two or more sides of a comparison, timed in turn, so that a busy machine slows all of them.

    seconds = alternate({"ours": ours, "plain": plain}, repeats=5)
    ratio_of(seconds["plain"], seconds["ours"]).median         # how many times faster ours is

A time alone means little on a shared machine: what is reported is the ratio of two times that were
measured one right after the other.
"""

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

Side = Callable[[], object]


@dataclass(frozen=True)
class Ratio:
    """Quotients of two sides over the repeats of one run."""

    median: float
    min: float
    max: float


def alternate(
    sides: Mapping[str, Side],
    repeats: int = 5,
    warmup: int = 1,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Times every side once a round, in the given order and in every second round in the reverse.

    A side must have done its work when it returns: one that gives a TensorFlow tensor ends with
    `.numpy()`.

    Args:
        sides: what to time, by name.
        repeats: rounds that count.
        warmup: rounds before them that do not: tracing, file caches.
        clock: gives seconds.

    Returns:
        Seconds of each side, one per round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(-warmup, repeats):
        names = list(sides) if number % 2 == 0 else list(sides)[::-1]
        for name in names:
            began = clock()
            sides[name]()
            if number >= 0:
                seconds[name].append(clock() - began)
    return seconds


def ratio_of(numerators: Sequence[float], denominators: Sequence[float]) -> Ratio:
    """The quotients of two sides, round by round.

    Args:
        numerators: seconds of the side that is expected to be slow, one per round.
        denominators: seconds of the other side in the same rounds.

    Raises:
        ValueError: where the two differ in length or are empty.
    """
    quotients = [a / b for a, b in zip(numerators, denominators, strict=True)]
    if not quotients:
        raise ValueError("a ratio needs at least one round")
    return Ratio(statistics.median(quotients), min(quotients), max(quotients))


def images_per_second(seconds: Sequence[float], images: int) -> float:
    """Images per second at the median time of a side that handles `images` a round."""
    return images / statistics.median(seconds)

"""What a step's settings are worth: images in a batch, and TensorFlow's threads.

batch_size_times(load, sizes=(16, 64))["64"]["median"]    # time of an image over that at 16
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial

import tensorflow as tf

from candle_tf.timing import Side, alternate
from tools.benchmarks.growth import Growth, over_the_first
from tools.benchmarks.processes import start_processes
from tools.benchmarks.step import training_steps
from tools.benchmarks.workload import Workload


def batch_size_times(load: Workload, sizes: Sequence[int], repeats: int = 3) -> Growth:
    """Time of an image in a training step at several batch sizes.

    Args:
        load: the student.
        sizes: images in a batch; a timed part has at least as many as the largest.
        repeats: rounds.

    Returns:
        By size, over the first; see `growth.over_the_first`.
    """
    parts = {size: replace(load, batch_size=size, steps=-(-max(sizes) // size)) for size in sizes}
    sides = {str(size): training_steps(part) for size, part in parts.items()}
    work = {str(size): part.images for size, part in parts.items()}
    return over_the_first(alternate(sides, repeats), work)


def thread_settings() -> dict[str, tuple[int, int]]:
    """Threads in an operator, and operators at a time, that are compared on this machine.

    The first, "default", is TensorFlow's choice; the others are "AxB", for A and B of 1 and the
    number of cores, and twice the cores.
    """
    cores = len(os.sched_getaffinity(0))
    return {"default": (0, 0)} | {
        f"{within}x{beside}": (within, beside)
        for within, beside in ((1, 1), (cores, 1), (1, cores), (cores, cores), (2 * cores, cores))
    }


def thread_times(
    load: Workload, settings: Mapping[str, tuple[int, int]], repeats: int = 3
) -> Growth:
    """Time of an image in a training step by TensorFlow's threads, a process each.

    Args:
        load: the student.
        settings: as `thread_settings`.
        repeats: rounds.

    Returns:
        By setting, over the first; see `growth.over_the_first`.

    Raises:
        RuntimeError: where a process ended without a reply.
    """
    with ExitStack() as stack:
        sides = {
            name: start_processes(stack, [partial(_steps_by_threads, load, *each)])
            for name, each in settings.items()
        }
        seconds = alternate(sides, repeats)
    return over_the_first(seconds, dict.fromkeys(sides, load.images))


def _steps_by_threads(load: Workload, within: int, beside: int) -> Side:
    tf.config.threading.set_intra_op_parallelism_threads(within)
    tf.config.threading.set_inter_op_parallelism_threads(beside)
    return training_steps(load)

"""What a step's settings are worth: images in a batch, and TensorFlow's threads.

batch_size_times(load, sizes=(16, 64))["64"]["median"]    # time of an image over that at 16
"""

import multiprocessing
import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from multiprocessing.connection import Connection

import tensorflow as tf

from candle_tf.timing import Side, alternate
from tools.benchmarks.growth import Growth, over_the_first
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


def thread_times(load: Workload, repeats: int = 3) -> Growth:
    """Time of an image in a training step by TensorFlow's threads, a process each.

    The first, "default", is TensorFlow's choice; the others are "AxB": A threads in an operator, B
    operators at a time, for A and B of 1 and the number of cores, and twice the cores.

    Raises:
        RuntimeError: where a process ended without a reply.
    """
    cores = len(os.sched_getaffinity(0))
    settings = {"default": (0, 0)} | {
        f"{within}x{beside}": (within, beside)
        for within, beside in ((1, 1), (cores, 1), (1, cores), (cores, cores), (2 * cores, cores))
    }
    with ExitStack() as stack:
        sides = {name: _in_a_process(stack, load, *each) for name, each in settings.items()}
        seconds = alternate(sides, repeats)
    return over_the_first(seconds, dict.fromkeys(sides, load.images))


def _in_a_process(stack: ExitStack, load: Workload, within: int, beside: int) -> Side:
    """A side that a process of its own computes, which ends with the stack."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, load, within, beside), daemon=True)
    process.start()
    theirs.close()
    stack.callback(process.join)
    stack.callback(ours.close)

    def run() -> None:
        try:
            ours.send(None)
            ours.recv()
        except (EOFError, ConnectionError):
            process.join()
            raise RuntimeError(f"a process ended with code {process.exitcode}") from None

    return run


def _serve(connection: Connection, load: Workload, within: int, beside: int) -> None:
    """Takes the training steps whenever it is told to, until the other end is closed."""
    tf.config.threading.set_intra_op_parallelism_threads(within)
    tf.config.threading.set_inter_op_parallelism_threads(beside)
    steps = training_steps(load)
    while True:
        try:
            connection.recv()
        except EOFError:
            return
        steps()
        connection.send(None)

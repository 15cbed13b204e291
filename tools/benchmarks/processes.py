"""Sides of a comparison that processes of their own compute, where TensorFlow is set up for them.

with ExitStack() as stack:
    side = start_processes(stack, [partial(prepare, 1), partial(prepare, 2)])
    alternate({"two": side})
"""

import multiprocessing
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

from candle_tf.timing import Side

_SECONDS_TO_END = 10.0


def start_processes(stack: ExitStack, prepares: Sequence[Callable[[], Side]]) -> Side:
    """A side that a process for each of some functions computes, all at the same time.

    Args:
        stack: with which the processes end.
        prepares: called once in its process, each returns what is timed; can be pickled.

    Returns:
        What has them all do their work once; `RuntimeError` where one ended without a reply.
    """
    context = multiprocessing.get_context("spawn")
    started = []
    for prepare in prepares:
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, prepare), daemon=True)
        process.start()
        theirs.close()
        stack.callback(_end, process)
        started.append((process, ours))
    # Closed before any is joined: those that work together may end together.
    for _, ours in started:
        stack.callback(ours.close)

    def run() -> None:
        for _, ours in started:
            ours.send(None)
        for process, ours in started:
            try:
                ours.recv()
            except (EOFError, ConnectionError):
                process.join()
                raise RuntimeError(f"a process ended with code {process.exitcode}") from None

    return run


def _end(process: BaseProcess) -> None:
    """Waits for the end of a process that was told to, which may wait for one that failed."""
    process.join(_SECONDS_TO_END)
    process.kill()
    process.join()


def _serve(connection: Connection, prepare: Callable[[], Side]) -> None:
    """Does the work whenever it is told to, until the other end is closed."""
    work = prepare()
    while True:
        try:
            connection.recv()
        except EOFError:
            # Without TensorFlow's own end, which waits for other workers.
            os._exit(0)
        work()
        connection.send(None)

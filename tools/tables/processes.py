"""Commands in processes of their own, several at once, each on CPUs that no other has.

for place in run_commands(commands, logs, processes=2):      # places of commands that have ended
    ...

A small network leaves part of two CPUs idle, as one step waits for the other: two trainings with
one CPU each show more images a second in all than one after the other with both.
"""

import os
import queue
import shlex
import subprocess
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor, as_completed
from pathlib import Path

from candle_tf.errors import UserError


def run_commands(
    commands: Sequence[Sequence[str]], logs: Sequence[Path], processes: int = 1
) -> Iterator[int]:
    """Runs commands; what they print is appended to their logs.

    Args:
        commands: program and arguments of each.
        logs: a file for each.
        processes: how many run at once. With more than one the CPUs of this process are divided.

    Yields:
        The place of each command, in the order in which they end.

    Raises:
        UserError: for more processes than CPUs, before anything is run; where a command fails:
            those that run end first, and no other is begun.
    """
    shares: queue.Queue[set[int]] = queue.Queue()
    for share in _divide_cpus(processes):
        shares.put(share)

    stopped = threading.Event()

    def run(place: int) -> int:
        if stopped.is_set():
            raise CancelledError
        share = shares.get()
        try:
            _run(commands[place], logs[place], share)
        except BaseException:
            stopped.set()
            raise
        finally:
            shares.put(share)
        return place

    with ThreadPoolExecutor(processes) as threads:
        futures = [threads.submit(run, place) for place in range(len(commands))]
        try:
            for future in as_completed(futures):
                yield future.result()
        finally:
            stopped.set()


def _divide_cpus(processes: int) -> list[set[int]]:
    """CPUs of each process; empty sets where the system cannot assign any."""
    if processes == 1 or not hasattr(os, "sched_getaffinity"):
        return [set() for _ in range(processes)]
    cpus = sorted(os.sched_getaffinity(0))
    if processes > len(cpus):
        raise UserError(
            f"--processes={processes}, but there are {len(cpus)} CPUs: give at most as many."
        )
    return [set(cpus[k::processes]) for k in range(processes)]


def _run(command: Sequence[str], log: Path, cpus: set[int]) -> None:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        if cpus:
            # Set before the program counts its CPUs: it has to import TensorFlow first.
            os.sched_setaffinity(process.pid, cpus)
        code = process.wait()
    if code:
        last = log.read_text(errors="replace").strip().splitlines()[-1:]
        raise UserError(
            f"{log.stem} ended with code {code}: {''.join(last)} The whole log is in {log}; the "
            f"command was {shlex.join(command)}. Start the table again to resume it."
        )

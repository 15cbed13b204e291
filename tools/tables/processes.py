"""Commands in processes of their own, several at once, each on CPUs that no other has.

for place, code in run_commands(commands, logs, processes=2):      # those that have ended
    ...

A small network leaves part of two CPUs idle, as one step waits for the other: two trainings with
one CPU each show more images a second in all than one after the other with both.
"""

import os
import shlex
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

from absl import logging

from candle_tf.errors import UserError

# Between two polls of what runs; a training takes minutes.
_SECONDS = 0.1


def run_commands(
    commands: Sequence[Sequence[str]],
    logs: Sequence[Path],
    processes: int = 1,
    can_begin: Callable[[int], bool] = lambda _: True,
) -> Generator[tuple[int, int | None], None, None]:
    """Runs commands, also after one has failed; what they print is appended to their logs.

    What still runs when the iteration is left is terminated; so where this process is, by SIGTERM,
    which raises SystemExit meanwhile.

    Args:
        commands: program and arguments of each.
        logs: a file for each.
        processes: how many run at once. With more than one the CPUs of this process are divided.
        can_begin: whether a command, by its place, is to be run; asked when its turn comes.

    Yields:
        The place of each command and its exit code, in the order in which they end; None for one
        that was not to be run.

    Raises:
        UserError: for more processes than CPUs, before anything is run.
    """
    if not commands:
        return
    shares = _divide_cpus(min(processes, len(commands)))
    waiting = list(range(len(commands)))
    running: dict[int, tuple[subprocess.Popen[bytes], set[int]]] = {}
    with _exit_on_sigterm():
        try:
            while running or waiting:
                while waiting and shares:
                    place = waiting.pop(0)
                    if can_begin(place):
                        share = shares.pop(0)
                        running[place] = _start(commands[place], logs[place], share), share
                    else:
                        yield place, None
                if running:
                    place = _wait_for_any({each: process for each, (process, _) in running.items()})
                    process, share = running.pop(place)
                    shares.append(share)
                    yield place, process.returncode
        finally:
            for process, _ in running.values():
                process.terminate()
            for process, _ in running.values():
                process.wait()


@contextmanager
def _exit_on_sigterm() -> Iterator[None]:
    """Else SIGTERM would end this process at once, and not what it has started."""
    if threading.current_thread() is not threading.main_thread():  # no other gets signals
        yield
        return
    before = signal.signal(signal.SIGTERM, _exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _exit(number: int, _: object) -> NoReturn:
    raise SystemExit(128 + number)


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


def _start(command: Sequence[str], log: Path, cpus: set[int]) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    if cpus:
        # Set before the program counts its CPUs: it has to import TensorFlow first.
        try:
            os.sched_setaffinity(process.pid, cpus)
        except OSError as error:
            logging.warning("%s runs on all CPUs, as none can be its own: %s", log.stem, error)
    return process


def _wait_for_any(running: dict[int, subprocess.Popen[bytes]]) -> int:
    while True:
        for place, process in running.items():
            if process.poll() is not None:
                return place
        time.sleep(_SECONDS)


def failure_text(code: int, command: Sequence[str], log: Path) -> str:
    """Why a command failed: its exit code, the last line that it printed, and where the rest is."""
    last = "".join(log.read_text(errors="replace").strip().splitlines()[-1:])
    return (
        f"{log.stem} ended with code {code}: {last} The whole log is in {log}; the command was "
        f"{shlex.join(command)}."
    )

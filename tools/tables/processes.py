"""Commands in processes of their own, several at once, each on CPUs that no other has.

for place in run_commands(commands, logs, processes=2):      # places of commands that have ended
    ...

A small network leaves part of two CPUs idle, as one step waits for the other: two trainings with
one CPU each show more images a second in all than one after the other with both.
"""

import os
import shlex
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from absl import logging

from candle_tf.errors import UserError

# Between two polls of what runs; a training takes minutes.
_SECONDS = 0.1


def run_commands(
    commands: Sequence[Sequence[str]], logs: Sequence[Path], processes: int = 1
) -> Iterator[int]:
    """Runs commands; what they print is appended to their logs.

    Args:
        commands: program and arguments of each.
        logs: a file for each.
        processes: how many run at once. With more than one the CPUs of this process are divided.

    Yields:
        The place of each command that succeeds, in the order in which they end. What still runs
        when the iteration is left is terminated.

    Raises:
        UserError: for more processes than CPUs, before anything is run; where a command fails:
            those that run end first, and no other is begun.
    """
    if not commands:
        return
    shares = _divide_cpus(min(processes, len(commands)))
    waiting = list(range(len(commands)))
    running: dict[int, tuple[subprocess.Popen[bytes], set[int]]] = {}
    failure = None
    try:
        while running or (waiting and not failure):
            while waiting and shares and not failure:
                place, share = waiting.pop(0), shares.pop(0)
                running[place] = _start(commands[place], logs[place], share), share
            place = _wait_for_any({place: process for place, (process, _) in running.items()})
            process, share = running.pop(place)
            shares.append(share)
            if not process.returncode:
                yield place
                continue
            failure = failure or _explain(process.returncode, commands[place], logs[place])
            logging.error("%s has failed; what else is running ends first.", logs[place].stem)
    finally:
        for process, _ in running.values():
            process.terminate()
        for process, _ in running.values():
            process.wait()
    if failure:
        raise failure


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


def _explain(code: int, command: Sequence[str], log: Path) -> UserError:
    last = "".join(log.read_text(errors="replace").strip().splitlines()[-1:])
    return UserError(
        f"{log.stem} ended with code {code}: {last} The whole log is in {log}; the command was "
        f"{shlex.join(command)}. Start the table again to resume it."
    )

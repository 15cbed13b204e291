"""TFLite files side by side on this machine: time, spread and memory, each in a process of its own.

files = {"student": lce_path, "float32": float_path}
rows = time_files(files, baseline="float32", threads=1, rounds=20)
"""

import math
import multiprocessing
import re
import statistics
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

from candle_tf.errors import UserError
from candle_tf.timing import alternate, ratio_of

# A round runs a file so often that it takes this many seconds: a clock's tick and a message from
# one process to another are negligible then.
_ROUND_SECONDS = 0.05


@dataclass(frozen=True)
class FileTime:
    """Time and memory of one file.

    Attributes:
        file: its name among the sides.
        runtime: what it ran in.
        threads: number of.
        bytes: of the file.
        median_ms: of one image.
        low_ms, high_ms: 10 % and 90 % quantile over the rounds.
        memory: bytes by which loading and running it raised its process's peak; None where the
            system does not report it.
        ratio: time relative to the baseline's in the same round, median.
        ratio_min, ratio_max: over the rounds.
    """

    file: str
    runtime: str
    threads: int
    bytes: int
    median_ms: float
    low_ms: float
    high_ms: float
    memory: int | None
    ratio: float
    ratio_min: float
    ratio_max: float


def time_files(
    files: Mapping[str, Path], baseline: str, threads: int, rounds: int
) -> list[FileTime]:
    """Runs files in turn, the binary ones on the indirect kernel, the others in LiteRT/XNNPACK.

    Args:
        files: paths by name.
        baseline: the name of the one that all are compared with.
        threads: for each.
        rounds: of all files.

    Raises:
        UserError: for a file that cannot be run.
    """
    with ExitStack() as stack:
        sides = {
            name: stack.enter_context(_load_in_process(p, threads)) for name, p in files.items()
        }
        seconds = alternate({name: side.run for name, side in sides.items()}, rounds)
        return [
            _file_time(name, side, seconds[name], seconds[baseline], sides[baseline], threads)
            for name, side in sides.items()
        ]


class _Side:
    """A process that holds a loaded file."""

    def __init__(self, connection: Connection, path: Path) -> None:
        self._connection = connection
        self.path = path
        self.facts = self._receive()
        self.repeats = max(1, math.ceil(_ROUND_SECONDS / self.facts["seconds"]))

    def run(self) -> None:
        """One round."""
        self._connection.send(self.repeats)
        self._receive()

    def _receive(self) -> Any:
        try:
            reply = self._connection.recv()
        except EOFError as error:
            raise UserError(f"{self.path} ended the process that ran it.") from error
        if isinstance(reply, UserError):
            raise reply
        return reply


@contextmanager
def _load_in_process(path: Path, threads: int) -> Iterator[_Side]:
    # Not forked: a process that has TensorFlow's threads must not be, and its memory would count.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_serve, args=(theirs, path, threads), daemon=True)
    process.start()
    theirs.close()
    try:
        yield _Side(ours, path)
    finally:
        ours.close()
        process.join()


def _serve(connection: Connection, path: Path, threads: int) -> None:
    """Loads a file, sends time and memory, then runs it as often as each message asks."""
    from candle_tf.deploy.tflite import interpreters

    try:
        flatbuffer = path.read_bytes()
        binary = interpreters.needs_compute_engine(flatbuffer, str(path))
        _import_runtime(binary)
        before = _reset_peak()
        load = interpreters.open_compute_engine if binary else interpreters.open_litert
        interpreter = load(flatbuffer, str(path), threads)
        image = np.zeros(interpreter.shape, interpreter.dtype)
        noise = np.random.default_rng(0).integers(0, 256, image.shape)
        image = noise.astype(interpreter.dtype)
        for _ in range(3):
            began = time.perf_counter()
            interpreter(image)
            seconds = time.perf_counter() - began
    except UserError as error:
        connection.send(error)
        return
    memory = None if before is None else max(0, _memory("VmHWM") - before)
    runtime = "LCE, indirect" if binary else "LiteRT, XNNPACK"
    connection.send({"seconds": seconds, "memory": memory, "runtime": runtime})
    while True:
        try:
            repeats = connection.recv()
        except EOFError:
            return
        for _ in range(repeats):
            interpreter(image)
        connection.send(None)


def _import_runtime(binary: bool) -> None:
    """What importing takes is the same for every file."""
    from candle_tf.deploy.tflite.interpreters import compute_engine

    if binary:
        compute_engine()
        import larq_compute_engine.tflite.python.interpreter_wrapper_lite  # noqa: F401
    else:
        import ai_edge_litert.interpreter  # noqa: F401


def _reset_peak() -> int | None:
    """Sets the process's peak of memory to what it has now, and returns that; bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
        return _memory("VmRSS")
    except OSError:
        return None


def _memory(key: str) -> int:
    status = Path("/proc/self/status").read_text()
    found = re.search(rf"^{key}:\s+(\d+) kB", status, re.MULTILINE)
    return 1024 * int(found.group(1)) if found else 0


def _file_time(
    name: str,
    side: _Side,
    seconds: list[float],
    baseline: list[float],
    other: _Side,
    threads: int,
) -> FileTime:
    each = [second / side.repeats for second in seconds]
    ratio = ratio_of(each, [second / other.repeats for second in baseline])
    low, high = np.quantile(each, [0.1, 0.9])
    return FileTime(
        file=name,
        runtime=side.facts["runtime"],
        threads=threads,
        bytes=side.path.stat().st_size,
        median_ms=1000 * statistics.median(each),
        low_ms=1000 * float(low),
        high_ms=1000 * float(high),
        memory=side.facts["memory"],
        ratio=ratio.median,
        ratio_min=ratio.min,
        ratio_max=ratio.max,
    )

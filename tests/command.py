"""A main of ours as a user starts it: in a process of its own.

Its process is forked from one that has imported TensorFlow, which a start spends most of its time
on, and has done nothing else: `python -m module` with the imports done. `start_from_nothing` does
without, for what is said or refused before TensorFlow is imported.
"""

import atexit
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path

import candle_tf

ROOT = Path(candle_tf.__file__).parents[1]
_SECONDS = 600

_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.preload"])


class Command:
    """A running main: `pid`, `poll()`, `wait()`, `result()`."""

    def __init__(self, module: str, *arguments: str, cwd: Path = ROOT, **env: str) -> None:
        self.arguments = [module, *arguments]
        self._folder = tempfile.TemporaryDirectory(prefix="command-")
        self._outputs = [Path(self._folder.name) / name for name in ("stdout", "stderr")]
        environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "", **env}
        self._process = _FORKS.Process(
            target=_run, args=(self.arguments, self._outputs, cwd, environment)
        )
        self._process.start()

    @property
    def pid(self) -> int:
        """Of the process."""
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        return self._process.exitcode

    def wait(self, seconds: float = _SECONDS) -> int:
        """The exit code, at the end."""
        self._process.join(seconds)
        code = self.poll()
        if code is None:
            self._process.kill()
            self._process.join()
            raise subprocess.TimeoutExpired(self.arguments, seconds)
        return code

    def result(self) -> subprocess.CompletedProcess[str]:
        """Exit code and what was printed, at the end."""
        code = self.wait()
        printed = [path.read_text(errors="replace") for path in self._outputs]
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.arguments, code, *printed)


def start(
    module: str, *arguments: str, cwd: Path = ROOT, **env: str
) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module arguments...` to its end, without a GPU, and keeps what it prints."""
    return Command(module, *arguments, cwd=cwd, **env).result()


def start_from_nothing(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """As `start`, in an interpreter that has imported nothing: for what is said meanwhile."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )


def _run(
    arguments: list[str], outputs: list[Path], cwd: Path, environment: Mapping[str, str]
) -> None:
    """In the forked process; as the interpreter would run it."""
    for descriptor, path in enumerate(outputs, 1):
        with path.open("wb") as file:
            os.dup2(file.fileno(), descriptor)
    for descriptor, name in enumerate(("stdout", "stderr"), 1):
        stream = open(descriptor, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        # absl closes at the end what is not the interpreter's own stream.
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(cwd)
    sys.path[:] = [str(cwd), *(entry for entry in sys.path if entry not in ("", str(cwd)))]
    sys.argv = arguments
    code: object = 0
    try:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        code = error.code
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if isinstance(code, str):
        print(code, file=sys.stderr, flush=True)
    os._exit(code if isinstance(code, int) else int(code is not None))

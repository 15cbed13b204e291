"""Keeps what TensorFlow's runtime says of itself at each start out of our output.

quiet_imports()                         # in `candle_tf` itself: before TensorFlow is imported
with drop_runtime_messages():           # what else writes such lines
    interpreter = litert.Interpreter(...)
with drop_harmless_warnings():          # of TensorFlow's own log
    loaded = tf.saved_model.load(...)
set_child_verbosity()                         # in a main: processes that it starts say as much

The lines are written by C++ to file descriptor 2, before anything in Python could ask for silence.
They are dropped by what they say; all others are passed on as they come. With --verbosity=1, from
Python absl.logging.set_verbosity(1), nothing is dropped.
"""

import contextlib
import importlib.abc
import importlib.util
import io
import logging as standard_logging
import multiprocessing
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from absl import logging

# Of a TensorFlow that is well. Factories are registered twice as its wheel links them twice.
HARMLESS = (
    r"WARNING: All log messages before absl::InitializeLog\(\) is called are written to STDERR",
    r"[EWI]\d{4} .*Unable to register cu\w+ factory: Attempting to register factory for plugin "
    r"cu\w+ when one has already been registered",
    r"[EWI]\d{4} .*computation placer already registered\. Please check linkage",
    r".* I .*oneDNN custom operations are on\.",
    r".* I .*This TensorFlow binary is optimized to use available CPU instructions",
    r"To enable the following instructions: .*, in other operations, rebuild TensorFlow",
    r"INFO: Created TensorFlow Lite XNNPACK delegate for CPU\.",
    # Of a conversion.
    r"I\d{4} .*Number of eligible GPUs \(core count >= \d+, compute capability >= [\d.]+\): 0",
    r"I\d{4} .*single_machine\.cc:\d+\] Starting new session",
    r"fully_quantize: \d+, inference_type: \d+, input_inference_type: \w+",
    r"W\d{4} .*Ignored (output_format|drop_control_dependency)\.",
    r"I\d{4} .*MLIR V1 optimization pass is not enabled",
)
# In TensorFlow's own log: of graphs that are converted, and never trained on.
HARMLESS_WARNING = r"Importing a function .* with ops with unsaved custom gradients\."
# Printed by keras_core, which keras_cv imports.
_BACKEND_LINE = "Using TensorFlow backend\n"
# Runs in a process of its own: so nothing is lost where this one crashes, which is when TensorFlow
# has most to say. Lines come from standard input and leave by standard output.
_PROGRAM = """
import re, sys
harmless = re.compile("|".join(sys.argv[1:]).encode())
for line in sys.stdin.buffer:
    if not harmless.match(line):
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
"""
_SECONDS_TO_END = 5.0
# Tells the processes that a main starts by `multiprocessing` how much the main says.
_VERBOSITY = "CANDLE_TF_VERBOSITY"


def quiet_imports() -> None:
    """Makes the first imports of TensorFlow and keras_core drop their harmless lines.

    In a process that a main has started by `multiprocessing`, unless the main says everything.
    """
    verbosity = os.environ.get(_VERBOSITY)
    # Its name is set before anything of ours is imported; `parent_process()` is known later.
    is_child = multiprocessing.current_process().name != "MainProcess"
    if is_child and verbosity is not None and int(verbosity) >= logging.DEBUG:
        logging.set_verbosity(logging.DEBUG)
    contexts = {"tensorflow": drop_runtime_messages, "keras_core": _drop_backend_line}
    sys.meta_path.insert(0, _QuietFinder(contexts))


def set_child_verbosity() -> None:
    """Makes processes that this one starts by `multiprocessing` say as much as it does."""
    os.environ[_VERBOSITY] = str(logging.get_verbosity())


def is_harmless_warning(record: standard_logging.LogRecord) -> bool:
    """Whether a line of TensorFlow's own log is of graphs that are converted and never trained."""
    return re.match(HARMLESS_WARNING, record.getMessage()) is not None


@contextlib.contextmanager
def drop_harmless_warnings() -> Iterator[None]:
    """Drops `HARMLESS_WARNING` from absl's log, and leaves the log as it was."""

    def is_kept(record: standard_logging.LogRecord) -> bool:
        return logging.get_verbosity() >= logging.DEBUG or not is_harmless_warning(record)

    logger = logging.get_absl_logger()
    logger.addFilter(is_kept)
    try:
        yield
    finally:
        logger.removeFilter(is_kept)


@contextlib.contextmanager
def drop_runtime_messages() -> Iterator[None]:
    """Drops lines of `HARMLESS` from file descriptor 2, whichever thread writes them."""
    if logging.get_verbosity() >= logging.DEBUG:
        yield
        return
    try:
        original = os.dup(2)
    except OSError:  # closed
        yield
        return
    _flush()
    try:
        with _start_filter(original):
            yield
    finally:
        os.close(original)


@contextlib.contextmanager
def _start_filter(original: int) -> Iterator[None]:
    """Sends what is written to file descriptor 2 through a filter to another one."""
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _PROGRAM, *HARMLESS],
            stdin=subprocess.PIPE,
            stdout=original,
            start_new_session=True,  # Ctrl-C is for us
        )
    except OSError:
        yield
        return
    assert process.stdin is not None
    os.dup2(process.stdin.fileno(), 2)
    try:
        yield
    finally:
        _flush()
        os.dup2(original, 2)
        process.stdin.close()
        # A process that was started meanwhile may still write to the filter, which stays for it.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_SECONDS_TO_END)


def _flush() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


@contextlib.contextmanager
def _drop_backend_line() -> Iterator[None]:
    printed = io.StringIO()
    try:
        with contextlib.redirect_stdout(printed):
            yield
    finally:
        text = printed.getvalue()
        quiet = logging.get_verbosity() < logging.DEBUG
        sys.stdout.write(text.replace(_BACKEND_LINE, "") if quiet else text)


class _QuietFinder(importlib.abc.MetaPathFinder):
    """Finds modules as Python does, and runs the first import of some of them in a context."""

    def __init__(self, contexts: dict[str, Callable[[], Any]]) -> None:
        self._contexts = contexts

    def find_spec(
        self,
        fullname: str,
        path: object = None,  # noqa: ARG002
        target: ModuleType | None = None,  # noqa: ARG002
    ) -> ModuleSpec | None:
        """The module's own place, for the first import of one of ours; else None."""
        # Taken out, so that the search below does not come back here.
        context = self._contexts.pop(fullname, None)
        if context is None:
            return None
        spec = importlib.util.find_spec(fullname)
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_quietly(module: ModuleType) -> None:
                with context():
                    execute(module)

            spec.loader.exec_module = execute_quietly  # type: ignore[method-assign]
        return spec

"""Runs the tests of the native operators under a sanitizer: address or undefined behaviour.

    python -m tools.sanitize_native

Compiles the operators with -fsanitize=address,undefined into a temporary cache, and runs their
tests with the sanitizers' libraries loaded first. Anything that these find ends the tests with a
report.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from candle_tf import app
from candle_tf.native.build import build, cached_path, find_compiler

_SANITIZER = ("-fsanitize=address,undefined", "-fno-sanitize-recover=all", "-O1")
# Building itself is no matter of the operators, and takes long.
_TESTS = (
    "norm_chain",
    "binarize",
    "conv",
    "sign_conv_grad",
    "pool",
    "dispatch",
    "adam",
    "repeatability",
)


def main() -> int:
    """Compiles and tests; returns pytest's exit code."""
    root = Path(__file__).parents[1]
    compiler = find_compiler()
    with tempfile.TemporaryDirectory() as cache:
        os.environ["XDG_CACHE_HOME"] = cache
        path = cached_path(compiler)
        path.parent.mkdir(parents=True)
        build(compiler, path, _SANITIZER)
        tests = [str(file) for name in _TESTS for file in root.glob(f"tests/**/test_*{name}.py")]
        environment = {
            **os.environ,
            "LD_PRELOAD": " ".join(_library(compiler, name) for name in ("libasan", "libubsan")),
            # Python and TensorFlow keep what they allocate until they end.
            "ASAN_OPTIONS": "detect_leaks=0:abort_on_error=1",
            "UBSAN_OPTIONS": "print_stacktrace=1",
        }
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", *tests]
        return subprocess.run(command, cwd=root, env=environment, check=False).returncode


def _library(compiler: str, name: str) -> str:
    command = [compiler, f"-print-file-name={name}.so"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


if __name__ == "__main__":
    app.run(lambda _: sys.exit(main()))

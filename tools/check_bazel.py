"""Checks the Bazel files where Bazel is installed: builds everything, runs a test and a main.

    python -m tools.check_bazel
    python -m tools.check_bazel --bazel=/usr/bin/bazel

Bazel starts the Python that this runs on, with its packages. Without Bazel the check says so, and
ends with the exit code 3.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from absl import flags, logging

from candle_tf import app
from candle_tf.errors import UserError

_BAZEL = flags.DEFINE_string("bazel", "", "the program; bazel or bazelisk of the PATH if empty")
ROOT = Path(__file__).parents[1]


def main() -> None:
    """Runs the commands, one after the other."""
    program = _BAZEL.value or shutil.which("bazel") or shutil.which("bazelisk")
    if not program or not shutil.which(program):
        print("Bazel is not installed here: nothing was checked.")
        sys.exit(3)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    for command in (
        ["build", "//..."],
        [
            "test",
            "//:timing_test",
            "--test_env=PATH",
            "--test_output=errors",
            "--spawn_strategy=local",
        ],
    ):
        _run([program, *command], ROOT, environment)
    _run([program, "shutdown"], ROOT, environment)
    with tempfile.TemporaryDirectory() as folder:
        # Relative paths are of the folder in which a user calls `bazel run`.
        main_file = ROOT / "bazel-bin" / "datasets"
        started = {**environment, "BUILD_WORKING_DIRECTORY": folder}
        _run([str(main_file), "--json=catalog.json"], ROOT, started)
        if not (Path(folder) / "catalog.json").exists():
            raise UserError(f"{main_file} does not heed BUILD_WORKING_DIRECTORY.")
    print("Bazel builds all targets; the test passed; relative paths are the user's.")


def _run(command: list[str], folder: Path, environment: dict[str, str]) -> None:
    logging.info("%s", " ".join(command))
    code = subprocess.run(command, cwd=folder, env=environment, check=False).returncode
    if code:
        raise UserError(f"{' '.join(command)} ended with code {code}.")


if __name__ == "__main__":
    app.run(lambda _: main())

"""A main of ours as a user starts it: in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import candle_tf


def start(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs `python -m module arguments...` to its end, without a GPU, and keeps what it prints."""
    return subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=Path(candle_tf.__file__).parents[1],
        env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )

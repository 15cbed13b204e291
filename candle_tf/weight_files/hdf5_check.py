"""Reads all of an HDF5 file, in a process of its own: the HDF5 library can crash on damaged files.

check_hdf5("resnet152_notop.h5")        # raises ValueError where it cannot be read whole
"""

import subprocess
import sys
from pathlib import Path

_PROGRAM = Path(__file__).with_name("read_hdf5.py")
_SECONDS = 600


def check_hdf5(path: str | Path) -> None:
    """Reads a file in another process.

    Args:
        path: of a file that exists.

    Raises:
        ValueError: says what is wrong with it.
    """
    command = [sys.executable, str(_PROGRAM), str(Path(path).resolve())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"it cannot be read in {_SECONDS} seconds") from error
    if done.returncode < 0:
        raise ValueError("the HDF5 library crashes on it")
    if done.returncode:
        lines = done.stderr.decode(errors="replace").strip().splitlines() or ["it cannot be read"]
        raise ValueError(lines[-1])

"""One process in a folder at a time: a lock that ends with its process.

lock = lock_folder(Path("runs/flowers"))      # held until `lock` is closed or the process ends
"""

import fcntl
import os
import socket
from pathlib import Path
from typing import IO
from weakref import WeakKeyDictionary

from candle_tf.errors import UserError

NAME = ".lock"
# Lock files that were opened here, and the process that did: a fork of it has them too.
_LOCKS: WeakKeyDictionary[IO[str], int] = WeakKeyDictionary()


def lock_folder(folder: Path) -> IO[str] | None:
    """Takes the folder's lock, which the operating system frees when the process ends.

    Args:
        folder: an existing folder.

    Returns:
        The open lock file; closing it frees the lock. None where this very process holds it
        already, and where the file system has no locks.

    Raises:
        UserError: where another process holds it; names host and process.
    """
    file = (folder / NAME).open("a+")
    if _is_held_here(file):
        file.close()
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.seek(0)
        holder = file.read(200).strip()
        file.close()
        raise UserError(
            f"{folder} is in use by {holder or 'another process'}. Wait until it ends, stop it, or "
            "give another --run_dir."
        ) from error
    except OSError:
        file.close()
        return None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _LOCKS[file] = os.getpid()
    return file


def _is_held_here(file: IO[str]) -> bool:
    """Whether this process has the lock: by its files, as containers have equal process ids."""
    wanted = os.fstat(file.fileno())
    return any(
        process == os.getpid()
        and not lock.closed
        and os.path.samestat(os.fstat(lock.fileno()), wanted)
        for lock, process in _LOCKS.items()
    )

"""One process in a folder at a time: a lock that ends with its process.

lock = lock_folder(Path("runs/flowers"))      # held until `lock` is closed or the process ends
"""

import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO
from weakref import WeakKeyDictionary

from candle_tf.errors import UserError

NAME = ".lock"
# To lock a file that others remove: one for each of them, at the most.
_ATTEMPTS = 10_000
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
    return lock_file(folder / NAME, str(folder), "give another --run_dir")


def lock_file(path: Path, what: str, remedy: str) -> IO[str] | None:
    """Takes the lock of a file, as `lock_folder` that of a folder.

    Args:
        path: of the file, which is made; its folder must exist.
        what: what the lock is of, for the message.
        remedy: what to do where another process holds it, beside waiting; for the message.

    Returns:
        As `lock_folder`.

    Raises:
        UserError: where another process holds it; names host and process.
    """
    file = path.open("a+")
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
            f"{what} is in use by {holder or 'another process'}. Wait until it ends, stop it, or "
            f"{remedy}."
        ) from error
    except OSError:
        file.close()
        return None
    file.truncate(0)
    file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
    file.flush()
    _LOCKS[file] = os.getpid()
    return file


@contextmanager
def wait_for_lock(path: Path) -> Iterator[None]:
    """Waits for the lock of a file, and holds it: for work of seconds that is not to overlap.

    Threads of one process wait for each other too, so it must not be nested. Where the file system
    has no locks, nobody waits.

    Args:
        path: of the file. It is made, with its folder, and is removed at the end.

    Raises:
        OSError: where it cannot be written.
    """
    file = _wait_for(path)
    try:
        yield
    finally:
        # Who waits for the file that is removed here tries the next one.
        path.unlink(missing_ok=True)
        file.close()


def _wait_for(path: Path) -> IO[str]:
    """Opens and locks a file, which others may remove meanwhile, and its folder."""
    found: OSError = FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path))
    for _ in range(_ATTEMPTS):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            file = path.open("a+")
        except (FileNotFoundError, FileExistsError) as error:  # the folder was removed meanwhile
            found = error
            continue
        with suppress(OSError):
            fcntl.flock(file, fcntl.LOCK_EX)
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        file.close()
    raise found


def _is_held_here(file: IO[str]) -> bool:
    """Whether this process has the lock: by its files, as containers have equal process ids."""
    wanted = os.fstat(file.fileno())
    return any(
        process == os.getpid()
        and not lock.closed
        and os.path.samestat(os.fstat(lock.fileno()), wanted)
        for lock, process in _LOCKS.items()
    )

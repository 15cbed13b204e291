"""Files that are either whole or not there, and JSON that is read with care."""

import contextlib
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO, Any

from candle_tf.errors import UserError

_FULL_DISK = (errno.ENOSPC, errno.EDQUOT)
_OF_THE_PATH = (errno.ENAMETOOLONG, errno.EACCES, errno.EPERM, errno.EROFS)
_SHOWN = 100  # characters of a path in a message
_NO_SPACE = os.strerror(errno.ENOSPC)


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Writes `data` to `path` so that no reader and no crash ever sees half of it.

    The file's folder is made where it is missing. A link is followed, and stays one. What is no
    file, such as a pipe, a terminal or /dev/null, is written to.

    Args:
        path: of the file.
        data: all of its bytes, or pieces of them in order, for what need not be in memory at once.

    Raises:
        UserError: where the file cannot be written.
    """
    pieces = [data] if isinstance(data, bytes) else data
    try:
        stream = _stream_at(path)
        if stream is None:
            _write_and_rename(Path(os.path.realpath(path)), pieces)
        else:
            with stream:
                stream.writelines(pieces)
    except OSError as error:
        size = len(data) if isinstance(data, bytes) else 0
        if full := explain_full_disk(error, path.parent, f"{path}", size):
            raise full from error
        raise _unwritable(path, error) from error


def append_durably(path: Path, data: bytes) -> None:
    """Writes `data` behind what a file holds, through to the disk.

    A process that is killed leaves any part of it: the reader must know where whole data ends.

    Args:
        path: of the file.
        data: what is added.

    Raises:
        UserError: where the file cannot be written.
    """
    try:
        with path.open("ab") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        if full := explain_full_disk(error, path.parent, f"{path}", len(data)):
            raise full from error
        raise _unwritable(path, error) from error


def write_each(writes: Iterable[Callable[[], None]]) -> None:
    """Writes files, each of them also where another one cannot be written.

    Args:
        writes: a call for each file.

    Raises:
        UserError: at the end, with all reasons.
    """
    errors = []
    for write in writes:
        try:
            write()
        except UserError as error:
            errors.append(error)
    if errors:
        raise UserError("\n".join(map(str, errors))) from errors[0]


def require_writable_file(path: Path) -> None:
    """Refuses a path that `write_atomically` cannot write, before the work that is to be written.

    Nothing is written, and no folder is made; a disk may be full in the end.

    Args:
        path: of a file, which need not exist, nor its folder; or of what is no file.

    Raises:
        UserError: as `write_atomically`.
    """
    try:
        if not is_stream(path):
            _refuse_unwritable_file(Path(os.path.realpath(path)))
        elif not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
    except OSError as error:
        raise _unwritable(path, error) from error


def _refuse_unwritable_file(path: Path) -> None:
    if path.is_dir():
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    with contextlib.suppress(FileNotFoundError):
        _temporary_path(path).stat()  # its name may be too long, or above it is a file
    folder = next(each for each in path.parents if each.exists())
    if not os.access(folder, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(folder))


def _unwritable(path: Path, error: OSError) -> UserError:
    return UserError(
        f"{path} cannot be written ({error}). Make it writable, or choose another folder."
    )


def _write_and_rename(path: Path, pieces: Iterable[bytes]) -> None:
    temporary = _temporary_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with temporary.open("wb") as file:
            file.writelines(pieces)
            file.flush()
            # Else a power cut could leave the name on a file without contents.
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _temporary_path(path: Path) -> Path:
    # The process id tells whether its writer still runs; in containers many have the same.
    return path.with_name(f".{path.name}.{secrets.token_hex(4)}.{os.getpid()}.unfinished")


def _stream_at(path: Path) -> IO[bytes] | None:
    """What to write to where a path has no file that could be replaced; None where it has, or none.

    A file that this process prints to is such a stream too: it would go on to print to the old one.
    """
    number = _printed_to(path)
    if number is not None:
        (sys.stdout if number == 1 else sys.stderr).flush()
        return open(number, "ab", closefd=False)
    return path.open("wb") if is_stream(path) else None


def is_stream(path: Path) -> bool:
    """Whether something is there that is written to, and not replaced."""
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return _printed_to(path) is not None or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def _printed_to(path: Path) -> int | None:
    """1 or 2, where a path is what this process prints to as standard output or error."""
    for number in (1, 2):
        with contextlib.suppress(OSError):  # nothing is there, or it is closed
            if os.path.samestat(path.stat(), os.fstat(number)):
                return number
    return None


def sha256_of_file(path: Path) -> str:
    """SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def expand_home(path: str) -> str:
    """A path with the home folder for a leading "~", which shells do not expand after "=".

    Raises:
        UserError: For "~name" where no user has that name.
    """
    if not path.startswith("~"):
        return path
    expanded = os.path.expanduser(path)
    if expanded.startswith("~"):
        raise UserError(
            f"{path}: there is no user {path[1:].partition('/')[0]!r} with a home folder. Give "
            "another path, or write ./ before a name that begins with ~."
        )
    return expanded


def require_path(path: str | Path, remedy: str) -> Path:
    """A path that somebody gave, with the home folder for a leading "~"; nothing need be there.

    Args:
        path: as it was given.
        remedy: what to give, for the message.

    Raises:
        UserError: where it is empty, which to Python is the current folder; where it is too long,
            or in a folder without rights.
    """
    text = str(path)
    if not text:
        raise UserError(f"A path is empty. {remedy} The current folder is a dot.")
    place = Path(expand_home(text))
    try:
        place.exists()
    except OSError as error:
        raise (explain_path(error) or _unreadable(place, error)) from error
    return place


def _unreadable(path: Path, error: OSError) -> UserError:
    return UserError(f"{path} cannot be read ({error.strerror or error}). Give another path.")


def parse_json(text: str | bytes, **options: Any) -> Any:
    """What JSON says: the one place where JSON of others is read.

    Args:
        text: of a file or a request.
        **options: of `json.loads`.

    Raises:
        ValueError: for text that is not JSON, and for nesting and numbers that Python cannot read;
            one line that says which.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("its brackets are nested too deeply") from error
    except (json.JSONDecodeError, UnicodeDecodeError):
        raise
    except ValueError as error:
        if "integer string conversion" in str(error):
            raise ValueError("it holds a whole number of thousands of digits") from error
        raise


def read_json_object(path: Path, remedy: str) -> dict[str, Any]:
    """Reads a file that holds one JSON object.

    Args:
        path: of the file, which must exist.
        remedy: what to do about a damaged file, for the message.

    Raises:
        UserError: where the file is missing, cannot be read, or is anything but one JSON object.
            Nesting and numbers beyond what Python reads count as damage too.
    """
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content, dict):
            raise ValueError("it does not hold one JSON object")
    except FileNotFoundError as error:
        raise UserError(f"There is no {path}. {remedy}") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}). {remedy}") from error
    return content


def require_free_space(folder: Path, size: int, purpose: str) -> None:
    """Refuses work whose files would fill the disk.

    Args:
        folder: where they will be; the nearest folder above that exists is asked.
        size: bytes.
        purpose: what the bytes are for, for the message.

    Raises:
        UserError: with the bytes that are needed and those that are free.
    """
    while not folder.exists():
        folder = folder.parent
    free = shutil.disk_usage(folder).free
    if size > free:
        raise UserError(
            f"{purpose} needs {size / 1e6:.1f} MB in {folder}, where {free / 1e6:.1f} MB are free. "
            "Make room and run the same command again: it resumes."
        )


def explain_full_disk(
    error: BaseException, folder: Path | None = None, what: str = "", size: int = 0
) -> UserError | None:
    """The message for an error that says that a disk is full; None for any other error.

    Args:
        error: of Python or of TensorFlow.
        folder: where was written, for errors that do not name their file.
        what: was written, if that is known.
        size: its bytes; 0 where that is not known.
    """
    if getattr(error, "errno", None) not in _FULL_DISK and _NO_SPACE not in str(error):
        return None
    named = getattr(error, "filename", None)
    place = folder or (Path(os.fsdecode(named)).parent if named else None)
    needs = f" for {what}" if what else ""
    needs += f", which needs {size / 1e6:.1f} MB" if size else ""
    free = ""
    if place is not None and place.exists():
        free = f" in {place}, where {shutil.disk_usage(place).free / 1e6:.1f} MB are free"
    reason = next(iter(str(error).splitlines()), "")
    return UserError(
        f"There is no room left on the disk{free}{needs} ({reason}). Make room and run the same "
        "command again: it resumes."
    )


def explain_path(error: BaseException) -> UserError | None:
    """The message for an error that is a path's: too long, or not permitted; else None."""
    if not isinstance(error, OSError) or error.errno not in _OF_THE_PATH or not error.filename:
        return None
    path = os.fsdecode(error.filename)
    shown = path if len(path) <= _SHOWN else f"{path[:_SHOWN]}..."
    return UserError(
        f"{shown} cannot be used ({error.strerror}). Give another path, or change its permissions."
    )

"""Files that are either whole or not there."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from candle_tf.errors import UserError


def write_atomically(path: Path, data: bytes | Iterable[bytes]) -> None:
    """Writes `data` to `path` so that no reader and no crash ever sees half of it.

    The file's folder is made where it is missing.

    Args:
        path: of the file.
        data: all of its bytes, or pieces of them in order, for what need not be in memory at once.

    Raises:
        UserError: where the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.unfinished")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                # Else a power cut could leave the name on a file without contents.
                os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error}). Free space there, or choose another folder."
        ) from error


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

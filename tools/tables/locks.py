"""Several commands in the folder of one table: a cell is of one of them, and short writes wait.

with table_lock(folder):                # held by one process or thread at a time
    lock = lock_cell(cell, folder)      # held until `lock` is closed or the process ends
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from candle_tf.errors import UserError
from candle_tf.folder_lock import lock_file, wait_for_lock
from tools.tables.cells import Cell


@contextmanager
def table_lock(folder: Path) -> Iterator[None]:
    """Waits until no other command changes records or the table's files; it must not be nested.

    Args:
        folder: of the run of the table. Where it is made here it is removed at the end if it is
            empty: a command that is refused leaves none.

    Raises:
        UserError: where the folder cannot be written.
    """
    made = not folder.exists()
    with ExitStack() as held:
        try:
            # No cell has this name: all end in their seed.
            held.enter_context(wait_for_lock(_lock_path(folder, "table")))
        except OSError as error:
            raise UserError(f"--run_dir={folder} cannot be written: {error}.") from error
        try:
            yield
        finally:
            held.close()
            with suppress(OSError):
                _lock_path(folder, "table").parent.rmdir()
                if made:
                    folder.rmdir()


def lock_cell(cell: Cell, folder: Path) -> IO[str] | None:
    """Takes a cell for this process: its run, its log and its record have one writer.

    Args:
        cell: of the table.
        folder: of the run of the table, whose `table_lock` is held.

    Returns:
        As `candle_tf.folder_lock.lock_folder`.

    Raises:
        UserError: where another command runs the cell.
    """
    return lock_file(_lock_path(folder, cell.name), cell.name, "leave the cell out by --only")


def _lock_path(folder: Path, name: str) -> Path:
    return folder / "locks" / name

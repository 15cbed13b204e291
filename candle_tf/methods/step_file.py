"""steps.csv of a training: a line for each step, appended epoch by epoch.

    file = StepFile(folder / "steps.csv", steps=500)
    file.append(0, [{"epoch": 1, "step": 1, "kl": 3.0}, ...])       # of the first epoch

A process that is killed leaves whole lines of the epochs before and any part of the next one. The
process that resumes counts them, and leaves out what is beyond the epochs that are done: it writes
the file once more as it comes to its first epoch, and appends from there on.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, islice
from pathlib import Path

from absl import logging

from candle_tf.files import append_durably, write_atomically

_READ = 1 << 20


class StepFile:
    """The file of one training; it need not exist.

    Args:
        path: of the file.
        steps: lines of an epoch.
    """

    def __init__(self, path: Path, steps: int) -> None:
        self._path = path
        self._steps = steps
        self._columns: list[str] = []
        # Bytes after the last epoch that this process wrote; None before.
        self._size: int | None = None

    def append(self, epoch: int, rows: Sequence[Mapping[str, float]]) -> None:
        """Writes the lines of an epoch behind those of the epochs before it, and nothing behind.

        Args:
            epoch: from 0.
            rows: values by column, one for each step. A file that a run of an older version began
                keeps its columns: what it lacks is left out, and what these rows lack is nan.

        Raises:
            UserError: where the file cannot be written.
        """
        # Another process may have removed or changed it meanwhile.
        if self._path.exists() and self._path.stat().st_size == self._size:
            append_durably(self._path, csv_text(rows, self._columns).encode())
            self._size = self._path.stat().st_size
            return
        header, kept = self._find_lines(1 + epoch * self._steps) if epoch else ("", 0)
        self._columns = next(csv.reader([header])) if header else list(rows[0])
        text = csv_text(rows, self._columns, header=not kept, refuses_others=not kept)
        write_atomically(self._path, chain(_first_bytes(self._path, kept), [text.encode()]))
        self._size = self._path.stat().st_size

    def _find_lines(self, count: int) -> tuple[str, int]:
        """The first line, and the bytes of the first `count` lines, or of fewer if there are."""
        if not self._path.exists():
            return "", 0
        header, size, found = b"", 0, 0
        with self._path.open("rb") as file:
            for line in islice(file, count):
                # A line without an end was cut off.
                if not line.endswith(b"\n"):
                    break
                header, size, found = header or line, size + len(line), found + 1
        if found < count:
            logging.warning(
                "%s has %d whole lines of %d: those of the steps between are missing",
                *(self._path, found, count),
            )
        return header.decode(), size


def csv_text(
    rows: Sequence[Mapping[str, float]],
    columns: Sequence[str],
    header: bool = False,
    refuses_others: bool = False,
) -> str:
    """Lines of a CSV file; what the rows lack of the columns is nan, other values are left out.

    Raises:
        ValueError: for other values, with `refuses_others`.
    """
    text = io.StringIO()
    writer = csv.DictWriter(
        text,
        fieldnames=columns,
        restval="nan",
        extrasaction="raise" if refuses_others else "ignore",
        lineterminator="\n",
    )
    if header:
        writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _first_bytes(path: Path, size: int) -> Iterator[bytes]:
    """So many bytes of a file in pieces; a file of which there are none need not exist."""
    if not size:
        return
    with path.open("rb") as file:
        while piece := file.read(min(size, _READ)):
            size -= len(piece)
            yield piece

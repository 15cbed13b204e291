"""How far a long piece of work is: a bar on a terminal, elsewhere a line about every 30 seconds.

with Progress("teacher features", total=443) as progress:
    progress.advance(256)
"""

import os
import sys
import time
from types import TracebackType
from typing import Any

from absl import logging
from tqdm import tqdm

SECONDS = 30.0
# tqdm's own time left takes all units for alike.
_WITHOUT_TIME_LEFT = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}, {rate_fmt}{postfix}]"


class Progress:
    """Counts what is done of a total, and tells rate and time left.

    Args:
        title: what is being done.
        total: how much there is to do.
        unit: what is counted, in the plural.
        seconds: between two lines, where there is no terminal.
        work: in all, where units differ in it: the time left is told by the work then.
    """

    def __init__(
        self,
        title: str,
        total: int,
        unit: str = "images",
        seconds: float = SECONDS,
        work: float = 0.0,
    ) -> None:
        self._title, self._total, self._unit, self._seconds = title, total, unit, seconds
        self.done = 0
        self._work, self._work_done, self._work_told = work, 0.0, 0.0
        self._began = time.monotonic()
        self._told = (self._began, 0)
        self._bar: Any = None
        if sys.stderr.isatty():
            # A terminal that does not know its size says 0, for which tqdm shows nothing.
            has_size = os.get_terminal_size(sys.stderr.fileno()).columns > 0
            # A bar moves the cursor, which `terminal.guard_streams` would escape in `sys.stderr`.
            self._bar = tqdm(
                file=sys.__stderr__,
                total=total,
                desc=title,
                unit=f" {unit}",
                dynamic_ncols=has_size,
                ncols=None if has_size else 80,
                nrows=None if has_size else 20,
                leave=False,
                **({"bar_format": _WITHOUT_TIME_LEFT} if work else {}),
            )

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def advance(self, count: int, note: str = "", work: float = 0.0) -> None:
        """Counts what was done since the last call, and tells it where it is time to.

        Args:
            count: of the unit.
            note: what else to tell, such as the epoch and the loss.
            work: that these took, where units differ in it.
        """
        self.done += count
        self._work_done += work
        if self._bar is not None:
            if self._work:
                elapsed = time.monotonic() - self._began
                note = f"about {format_seconds(self._time_left(elapsed))} left, {note}"
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(count)
            return
        now = time.monotonic()
        since, before = self._told
        if now - since < self._seconds:
            return
        rate = (self.done - before) / (now - since)
        left = (self._total - self.done) / rate if rate else float("inf")
        if self._work:
            left = self._time_left(now - since, self._work_told)
        words = [f"{self.done:,} of {self._total:,} {self._unit}", f"{rate:.0f} {self._unit}/s",
                 f"{format_seconds(left)} left"]  # fmt: skip
        logging.info("%s: %s%s", self._title, ", ".join(words), f" ({note})" if note else "")
        self._told, self._work_told = (now, self.done), self._work_done

    def _time_left(self, seconds: float, before: float = 0.0) -> float:
        """Seconds that the work left takes at the rate of the last `seconds`, in which it came from
        `before` to where it is."""
        done = self._work_done - before
        return (self._work - self._work_done) * seconds / done if done else float("inf")

    def summary(self) -> str:
        """How much was done, in what time, and how fast."""
        seconds = time.monotonic() - self._began
        rate = self.done / max(seconds, 1e-9)
        return f"{self.done:,} {self._unit} in {format_seconds(seconds)}, {rate:.0f} {self._unit}/s"

    def close(self) -> None:
        """Removes the bar."""
        if self._bar is not None:
            self._bar.close()


def format_seconds(seconds: float) -> str:
    """Such as "3:07 h", "4 min 10 s", "40 s"; "an unknown time" where it is infinite."""
    if seconds == float("inf"):
        return "an unknown time"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60}:{minutes % 60:02d} h"

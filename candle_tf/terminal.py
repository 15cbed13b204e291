"""Names of files and classes come from others: a terminal must not obey what is in them.

escape_controls("a\\x1b[2Jb")        # 'a\\\\x1b[2Jb': shown, and not obeyed
"""

import io
import re
import sys

# What moves a terminal's cursor, colours it or asks it back: C0 and C1 but for tab, line break,
# and the carriage return and backspace of progress bars; and what reorders text.
_CONTROLS = re.compile("[\x00-\x07\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")


def escape_controls(text: str) -> str:
    """A text with its control characters written as codes."""
    return _CONTROLS.sub(lambda found: found.group().encode("unicode_escape").decode(), text)


class _EscapingStream(io.TextIOWrapper):
    """A text stream that writes codes for control characters, and for what it cannot encode."""

    def write(self, text: str) -> int:
        super().write(escape_controls(text))
        return len(text)


def guard_streams() -> None:
    """Lets standard output and error escape control characters, whoever writes there."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, io.TextIOWrapper) and not isinstance(stream, _EscapingStream):
            stream.flush()
            guarded = _EscapingStream(
                stream.buffer,
                encoding=stream.encoding,
                errors="backslashreplace",
                line_buffering=stream.line_buffering,
                write_through=stream.write_through,
            )
            setattr(sys, name, guarded)

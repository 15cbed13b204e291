"""Writes JSON of a million entries in pieces, so that the whole is never in memory.

    pieces = compact_json({"format": 1, "train": zip(ids, labels)})      # strings to hash or write

Values are plain or objects. An object is a mapping, or an iterator of (name, value) pairs, which is
consumed.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

# Entries that are encoded at a time.
_BLOCK = 8192


def compact_json(content: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line of ASCII without spaces, as json.dumps(..., separators=(",", ":"))."""
    return _pieces(content, json.JSONEncoder(separators=(",", ":")), ":", "", "")


def indented_json(content: Mapping[str, Any]) -> Iterator[str]:
    """Yields an entry per line, as json.dumps(..., indent=1, ensure_ascii=False), and a newline."""
    # Not the encoder's own indentation, which takes ten times as long.
    encoder = json.JSONEncoder(ensure_ascii=False, separators=(",\n  ", ": "))
    yield from _pieces(content, encoder, ": ", "\n ", "\n")
    yield "\n"


def _pieces(
    content: Mapping[str, Any], encoder: json.JSONEncoder, colon: str, line: str, last_line: str
) -> Iterator[str]:
    inner_line = f"{line} " if line else ""
    for number, (name, value) in enumerate(content.items()):
        yield f"{',' if number else '{'}{line}{encoder.encode(name)}{colon}"
        if isinstance(value, Mapping | Iterator):
            entries = iter(value.items() if isinstance(value, Mapping) else value)
            yield from _entries(entries, encoder, inner_line, line)
        else:
            yield encoder.encode(value)
    yield f"{last_line}}}"


def _entries(
    entries: Iterator[tuple[str, Any]], encoder: json.JSONEncoder, line: str, last_line: str
) -> Iterator[str]:
    first = True
    while block := dict(islice(entries, _BLOCK)):
        yield f"{'{' if first else ','}{line}{encoder.encode(block)[1:-1]}"
        first = False
    yield "{}" if first else f"{last_line}}}"

"""JSON of a million entries, piece by piece: what json.dumps gives, never whole in memory.

    pieces = compact({"format": 1, "train": zip(ids, labels)})      # texts to hash or write

The values of the object are plain, or they are objects themselves: as mappings, or as iterators of
(name, value), which are used up.
"""

import json
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

# Entries that are turned into text at a time.
_BLOCK = 8192


def compact(content: Mapping[str, Any]) -> Iterator[str]:
    """One line without spaces, ASCII, as json.dumps(..., separators=(",", ":")) gives it."""
    return _pieces(content, json.JSONEncoder(separators=(",", ":")), ":", "", "")


def readable(content: Mapping[str, Any]) -> Iterator[str]:
    """An entry a line, as json.dumps(..., indent=1, ensure_ascii=False) gives it, and a newline."""
    # Indented by hand, as the encoder's own indentation takes ten times as long.
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

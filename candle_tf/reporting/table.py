"""Tables for the terminal and for Markdown.

print(method_table([{"model": "teacher", "mean": 0.861, "many": 0.9, "few": None}]))

model    mean %  many %  medium %  few %
-------  ------  ------  --------  -----
teacher    86.1    90.0         –      –
"""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from numbers import Real

ABSENT = "–"
SHOT_GROUPS = ("many", "medium", "few")
_UNITS = ("kB", "MB", "GB", "TB")
_MARKDOWN_SPECIAL = re.compile(r"([\\|`*<>\[\]])")


def text_table(
    rows: Sequence[Mapping[str, object]],
    columns: Sequence[str],
    *,
    left: Collection[str] | None = None,
    markdown: bool = False,
) -> str:
    """Sets rows in aligned columns.

    Args:
        rows: one mapping a row, column -> value shown with `str`; a value that is None or
            missing is shown as an en dash. Unprintable characters are replaced.
        columns: the columns shown, in order; they are the headings too.
        left: the columns set flush left, the others flush right. By default the first alone.
        markdown: write a Markdown table in place of plain text.

    Returns:
        The lines, joined by newlines, without one at the end.

    Raises:
        ValueError: no columns.
    """
    if not columns:
        raise ValueError("a table needs at least one column")
    is_left = [c in (columns[:1] if left is None else left) for c in columns]
    lines = [list(columns), *([_cell(row.get(c)) for c in columns] for row in rows)]
    lines = [[printable(cell) for cell in line] for line in lines]
    if markdown:
        lines = [[_MARKDOWN_SPECIAL.sub(r"\\\1", cell) for cell in line] for line in lines]
    widths = [max(3, *(_width(line[i]) for line in lines)) for i in range(len(columns))]
    rules = ["-" * w for w in widths]
    if markdown:
        rules = [r if flush else r[:-1] + ":" for r, flush in zip(rules, is_left, strict=True)]
    lines.insert(1, rules)
    padded = [[_pad(*cell) for cell in zip(line, widths, is_left, strict=True)] for line in lines]
    if markdown:
        return "\n".join(f"| {' | '.join(line)} |" for line in padded)
    return "\n".join("  ".join(line).rstrip() for line in padded)


def method_table(
    rows: Sequence[Mapping[str, object]],
    *,
    groups: Sequence[str] = SHOT_GROUPS,
    markdown: bool = False,
) -> str:
    """The table of models or methods that ends a run; see `method_cells` for the rows."""
    columns, cells = method_cells(rows, groups=groups)
    return text_table(
        [dict(zip(columns, line, strict=True)) for line in cells], columns, markdown=markdown
    )


def method_cells(
    rows: Sequence[Mapping[str, object]], *, groups: Sequence[str] = SHOT_GROUPS
) -> tuple[list[str], list[list[str]]]:
    """Headings and formatted cells of a table of models or methods.

    Args:
        rows: a mapping for each model: "model" its name, "mean" and any of `groups` accuracies
            0 to 1, and "overall", "worst" or "ece" likewise, "bytes" the size of its file. With
            `Metrics` m: `{"model": name, "mean": m.mean, **m.groups, "bytes": size}`.
        groups: the shot groups, each a column even if no model has it.

    Returns:
        (headings, rows of cells). Percentages have one decimal, a value that is None or missing
        is an en dash; columns other than the mean and the groups appear if a row has them.

    Raises:
        ValueError: a row without a name, an unknown key, or an accuracy outside 0 to 1.
    """
    always = ("model", "mean", *groups)
    known = (*always, "overall", "worst", "ece", "bytes")
    for row in rows:
        unknown = sorted(set(row) - set(known))
        if unknown or "model" not in row:
            raise ValueError(
                f"the row {dict(row)} needs a 'model' and no keys besides {list(known)}; "
                f"unknown: {unknown}"
            )
    keys = [k for k in known if k in always or any(row.get(k) is not None for row in rows)]
    headings = {"model": "model", "bytes": "size"}
    return (
        [headings.get(k, f"{k} %") for k in keys],
        [[_method_cell(k, row.get(k)) for k in keys] for row in rows],
    )


def percent(fraction: float) -> str:
    """A fraction 0 to 1 as a percentage with one decimal and without the sign: 0.861 -> "86.1".

    Raises:
        ValueError: it is outside 0 to 1, or NaN.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"expected a fraction from 0 to 1, not {fraction}")
    return f"{100 * fraction:.1f}"


def human_bytes(size: int) -> str:
    """A size in decimal units with one decimal: 999 -> "999 B", 1_250_000 -> "1.2 MB"."""
    if size < 1000:
        return f"{size} B"
    value, unit = size / 1000, 0
    # Compared with the rounded value, so that 999,990 bytes do not become "1000.0 kB".
    while round(value, 1) >= 1000 and unit < len(_UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{value:.1f} {_UNITS[unit]}"


def printable(text: str) -> str:
    """The text on one line, with control characters and lone surrogates replaced.

    Class names come from folders and lists: they may hold terminal escapes or undecodable bytes.
    """
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _method_cell(key: str, value: object) -> str:
    if value is None:
        return ABSENT
    if key == "model":
        return str(value)
    if not isinstance(value, Real):
        raise ValueError(f"expected a number for {key!r}, not {value!r}")
    return human_bytes(int(float(value))) if key == "bytes" else percent(float(value))


def _cell(value: object) -> str:
    return ABSENT if value is None else str(value)


def _width(text: str) -> int:
    """Columns a terminal gives the text: East Asian wide characters take two, marks none."""
    return sum(
        0 if unicodedata.combining(c) else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


def _pad(text: str, width: int, is_left: bool) -> str:
    space = " " * (width - _width(text))
    return text + space if is_left else space + text

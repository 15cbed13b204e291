"""One self-contained HTML page: text, tables and images; nothing is fetched to show it.

write_report(
    "run/report.html",
    "Caltech101, imbalance factor 10",
    [
        Section(
            "Accuracy",
            [
                "Mean over classes, on the test set.",
                Table(["model", "mean %"], [["teacher", "86.1"], ["student", "51.9"]]),
                Figure(to_png(figure), alt="Accuracy of teacher and student by shot group"),
            ],
        )
    ],
)
"""

import base64
import hashlib
import io
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from candle_tf.files import write_atomically

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
# Narrower windows are given a figure's narrow version, and tables without room between cells.
NARROW = 600
# A per-class table of 1,000 rows would push the rest of the report out of sight.
_FOLD_ROWS = 40


@dataclass(frozen=True)
class Figure:
    """An image.

    Attributes:
        png: the bytes of a PNG file.
        alt: what a reader who cannot see it should know; must not be empty.
        caption: text below the image, if any.
        width: CSS pixels it is shown at (never wider than the page); None for its own size.
        narrow: the image as drawn for windows of at most 600 CSS pixels, if any.
    """

    png: bytes
    alt: str
    caption: str = ""
    width: int | None = None
    narrow: bytes | None = None

    def __post_init__(self) -> None:
        if not self.png.startswith(_PNG_SIGNATURE):
            raise ValueError(f"the figure {self.alt!r} is not a PNG: it starts {self.png[:8]!r}")
        if not self.alt.strip():
            raise ValueError("a figure needs an alt text")


def encode_png(pixels: np.ndarray) -> bytes:
    """An image, uint8 `[H, W, 3]`, as the bytes of a PNG file, for a `Figure`."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@dataclass(frozen=True)
class Table:
    """A table of cells that are text already; more than 40 rows are folded away.

    Attributes:
        columns: the headings.
        rows: cells, as many in each row as there are headings.
        caption: text above the table, if any.
        left: how many of the first columns are flush left; the others are flush right.
        sortable: whether a click on a heading sorts the rows; numbers are sorted as such.
        folded: whether more than 40 rows are folded away; else they scroll in a box.
        wide_only: headings of columns that narrow windows have no room for.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    caption: str = ""
    left: int = 1
    sortable: bool = False
    folded: bool = True
    wide_only: Sequence[str] = ()

    def __post_init__(self) -> None:
        for row in self.rows:
            if len(row) != len(self.columns):
                raise ValueError(
                    f"the row {list(row)} has {len(row)} cells for {len(self.columns)} columns"
                )


@dataclass(frozen=True)
class Code:
    """Text shown as it stands, in a monospaced font: a command, a configuration, a log."""

    text: str


@dataclass(frozen=True)
class Gallery:
    """Small figures beside each other, in as many rows as the page needs."""

    figures: Sequence[Figure]
    caption: str = ""


@dataclass(frozen=True)
class Folded:
    """What is shown only after a click on its title."""

    title: str
    items: Sequence["Item"]


Item = str | Table | Figure | Code | Gallery | Folded


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; a plain string is text, a blank line a paragraph."""

    title: str
    items: Sequence[Item]


def write_report(path: str | os.PathLike[str], title: str, sections: Sequence[Section]) -> None:
    """Writes the page, whole or not at all: an older report stays until the new one is complete.

    Args:
        path: the file; its folder is made if need be.
        title: of the page.
        sections: in the order they appear. All of their text is escaped.

    Raises:
        UserError: the file cannot be written.
    """
    # A class name from a folder may hold bytes that were no UTF-8 (lone surrogates).
    page = render_report(title, sections).encode(errors="backslashreplace")
    write_atomically(Path(path), page)


def render_report(title: str, sections: Sequence[Section]) -> str:
    """The page as a string; arguments as `write_report`."""
    links = "".join(
        f'<li><a href="#section-{i}">{escape(section.title)}</a></li>\n'
        for i, section in enumerate(sections, start=1)
    )
    contents = f"<nav><ol>\n{links}</ol></nav>\n" if len(sections) > 1 else ""
    body = "\n".join(_section(i, section) for i, section in enumerate(sections, start=1))
    script = base64.b64encode(hashlib.sha256(_SCRIPT.encode()).digest()).decode()
    return _PAGE.format(
        title=escape(title),
        style=_STYLE,
        contents=contents,
        body=body,
        script=_SCRIPT,
        script_hash=script,
    )


def _section(number: int, section: Section) -> str:
    items = "\n".join(_item(item) for item in section.items)
    heading = f"<h2>{escape(section.title)}</h2>"
    return f'<section id="section-{number}">\n{heading}\n{items}\n</section>'


def _item(item: Item) -> str:
    if isinstance(item, Folded):
        inner = "\n".join(_item(each) for each in item.items)
        return f"<details><summary>{escape(item.title)}</summary>\n{inner}\n</details>"
    if isinstance(item, Gallery):
        caption = f"<p>{escape(item.caption)}</p>\n" if item.caption else ""
        inner = "\n".join(_figure(each) for each in item.figures)
        return f'{caption}<div class="gallery">\n{inner}\n</div>'
    if isinstance(item, Table):
        return _table(item)
    if isinstance(item, Figure):
        return _figure(item)
    if isinstance(item, Code):
        return f"<pre><code>{escape(item.text)}</code></pre>"
    paragraphs = re.split(r"\n\s*\n", item.strip())
    return "\n".join(f"<p>{escape(paragraph)}</p>" for paragraph in paragraphs)


def _table(table: Table) -> str:
    head = _row(table, table.columns, "th")
    body = "\n".join(_row(table, row, "td") for row in table.rows)
    folded = table.folded and len(table.rows) > _FOLD_ROWS
    style = ' class="sortable"' if table.sortable else ""
    caption = f"<caption>{escape(table.caption)}</caption>" if table.caption and not folded else ""
    box = "wide" if folded or len(table.rows) <= _FOLD_ROWS else "wide tall"
    text = (
        f'<div class="{box}"><table{style}>{caption}\n<thead>{head}</thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )
    if not folded:
        return text
    summary = escape(f"{table.caption or 'Table'} ({len(table.rows):,} rows)")
    return f"<details><summary>{summary}</summary>\n{text}\n</details>"


def _row(table: Table, cells: Sequence[str], tag: str) -> str:
    return f"<tr>{''.join(_cell(table, i, text, tag) for i, text in enumerate(cells))}</tr>"


def _cell(table: Table, column: int, text: str, tag: str) -> str:
    scope = ' scope="col"' if tag == "th" else ""
    kinds = ["left"] if column < table.left else []
    if table.columns[column] in table.wide_only:
        kinds.append("wide-only")
    style = f' class="{" ".join(kinds)}"' if kinds else ""
    return f"<{tag}{scope}{style}>{escape(text)}</{tag}>"


def _figure(figure: Figure) -> str:
    data = base64.b64encode(figure.png).decode("ascii")
    width = f' width="{figure.width}"' if figure.width is not None else ""
    caption = f"<figcaption>{escape(figure.caption)}</figcaption>" if figure.caption else ""
    image = f'<img src="data:image/png;base64,{data}" alt="{escape(figure.alt)}"{width}>'
    if figure.narrow is not None:
        narrow = base64.b64encode(figure.narrow).decode("ascii")
        media = f"(max-width: {NARROW}px)"
        source = f'<source media="{media}" srcset="data:image/png;base64,{narrow}">'
        image = f"<picture>{source}{image}</picture>"
    return f"<figure>{image}{caption}</figure>"


_STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 60rem; padding: 2rem 1.25rem 4rem; background: #fff;
  color: #1c1e21; font: 1rem/1.55 system-ui, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem;
  border-top: 1px solid #d9dce1; overflow-wrap: anywhere; }
p { max-width: 44rem; overflow-wrap: anywhere; }
nav ol { columns: 16rem; padding-left: 1.4rem; }
a { color: #0059a3; }
.wide { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: #4a4f57; padding-bottom: .4rem; }
th, td { padding: .3rem .9rem; text-align: right; border-bottom: 1px solid #e4e6ea; }
th { border-bottom: 2px solid #9aa0a8; font-weight: 600; }
.left { text-align: left; padding-left: 0; overflow-wrap: anywhere; }
td.left { min-width: 5rem; max-width: 16rem; }
td:not(.left) { white-space: nowrap; }
tbody tr:hover { background: #f3f6fa; }
summary { cursor: pointer; color: #0059a3; }
figure { margin: 1.25rem 0; }
img { max-width: 100%; height: auto; }
figcaption { color: #4a4f57; font-size: .93rem; max-width: 44rem; }
.gallery { display: flex; flex-wrap: wrap; gap: .75rem; margin: 1rem 0; }
.gallery figure { margin: 0; width: 8rem; }
.gallery img { width: 100%; image-rendering: auto; }
.gallery figcaption { font-size: .82rem; line-height: 1.3; overflow-wrap: anywhere; }
.tall { max-height: 34rem; overflow-y: auto; }
.tall thead th { position: sticky; top: 0; background: #fff; }
.sortable th { cursor: pointer; }
.sortable th[aria-sort=ascending]::after { content: " ▲"; }
.sortable th[aria-sort=descending]::after { content: " ▼"; }
pre { white-space: pre-wrap; overflow-wrap: anywhere; background: #f5f6f8;
  padding: .8rem 1rem; font-size: .88rem; }
@media (max-width: 600px) {
  body { padding: 1rem .75rem 3rem; }
  .wide { overflow-x: visible; }
  table { width: 100%; font-size: .7rem; }
  th, td { padding: .25rem .24rem; }
  td.left { min-width: 3.2rem; }
  .wide-only { display: none; }
  .gallery figure { width: 6.6rem; }
}
@media print { body { max-width: none; padding: 0; } figure, tr { break-inside: avoid; } }
"""

# Sorts the rows of a table by the column whose heading is clicked; again: the other way round.
_SCRIPT = """
for (const head of document.querySelectorAll("table.sortable th")) {
  head.addEventListener("click", () => {
    const column = head.cellIndex, body = head.closest("table").tBodies[0];
    const descending = head.getAttribute("aria-sort") === "ascending";
    for (const other of head.parentNode.cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", descending ? "descending" : "ascending");
    const text = row => row.cells[column].textContent;
    const number = row => parseFloat(text(row).replaceAll(",", "").replace("\\u2212", "-"));
    const compare = (a, b) => {
      const x = number(a), y = number(b);
      if (Number.isNaN(x) && Number.isNaN(y)) return text(a).localeCompare(text(b));
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) ? 1 : -1;
      return x - y;
    };
    const rows = [...body.rows].sort(compare);
    body.append(...(descending ? rows.reverse() : rows));
  });
}
"""

# The policy makes the browser itself refuse whatever is not in this file.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline';
  script-src 'sha256-{script_hash}'">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<h1>{title}</h1>
{contents}{body}
<script>{script}</script>
</body>
</html>
"""

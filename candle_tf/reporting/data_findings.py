"""What report.html says of a look at all images: those left out, and those in two parts."""

from typing import Any

from candle_tf.reporting import html

# Tables of more rows than this say where the rest stands.
_SHOWN = 50


def data_findings(data: dict[str, Any]) -> list[html.Figure | str | html.Table | html.Code]:
    """Paragraphs and tables.

    Args:
        data: `Results.data`; nothing is said where it is empty.
    """
    if not data:
        return []
    left_out, duplicates = data["left_out"], data["duplicates"]
    shared = "; ".join(f"{count} in {pair}" for pair, count in data["shared"].items())
    items: list[html.Figure | str | html.Table | html.Code] = [
        f"{data['scanned']} images were looked at before training; {len(left_out)} could not be "
        f"read and were left out. Images in two parts, byte by byte the same: {shared or 'none'}."
    ]
    if left_out:
        rows = [[e["part"], e["class"], e["id"], e["reason"]] for e in left_out]
        items.append(_table(["part", "class", "image", "reason"], rows, "Left out"))
    if duplicates:
        rows = [
            [" = ".join(f"{part}: {', '.join(ids)}" for part, ids in d["ids"].items()),
             ", ".join(d["classes"])]
            for d in duplicates
        ]  # fmt: skip
        items.append(_table(["images", "classes"], rows, "In two parts"))
    return items


def _table(columns: list[str], rows: list[list[str]], caption: str) -> html.Table:
    if len(rows) > _SHOWN:
        caption += f" (the first {_SHOWN} of {len(rows)}; all are in data_check.json)"
    return html.Table(columns, rows[:_SHOWN], caption, left=len(columns))

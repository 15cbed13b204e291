"""The section of report.html on unreadable images, and images in two subsets or two classes."""

from typing import Any

from candle_tf.reporting import html

# Longer tables are cut, and refer to data_check.json.
_SHOWN = 50


def data_findings(data: dict[str, Any]) -> list[html.Item]:
    """Paragraphs and tables.

    Args:
        data: `Results.data`; if it is empty, so is the section.
    """
    if not data:
        return []
    left_out, duplicates = data["left_out"], data["duplicates"]
    shared = "; ".join(f"{count} in {pair}" for pair, count in data["shared"].items())
    items: list[html.Item] = [
        f"{data['scanned']} images were read before training; {len(left_out)} are unreadable and "
        f"were left out. Images in two subsets, with the same bytes: {shared or 'none'}."
    ]
    if unlabelled := data.get("unlabelled"):
        items.append(
            f"The student was distilled on {unlabelled['images']:,} images without labels, too. Of "
            f"those that were given, {len(unlabelled['left_out'])} are unreadable and "
            f"{len(unlabelled['shared'])} are in the validation or test subset; they were left out."
        )
    near = data.get("near_duplicates", [])
    if near:
        rows = [
            # Older versions recorded each pair.
            [e["test"], e["train"], str(e["bits"]), ", ".join(e["classes"]), str(e.get("alike", 1))]
            for e in near
        ]
        columns = ["test image", "nearest training image", "bits that differ", "classes",
                   "training images alike"]  # fmt: skip
        items.append(_table(columns, rows, "Similar test and training images"))
    if left_out:
        rows = [[e["part"], e["class"], e["id"], e["reason"]] for e in left_out]
        items.append(_table(["subset", "class", "image", "reason"], rows, "Left out"))
    if duplicates:
        rows = [[_places(d["ids"]), ", ".join(d["classes"])] for d in duplicates]
        items.append(_table(["images", "classes"], rows, "In two subsets"))
    return items + _contradictory_images(data.get("contradictory", []))


def _contradictory_images(found: list[dict[str, Any]]) -> list[html.Item]:
    """A sentence and a table; nothing where there are none."""
    if not found:
        return []
    rows = [[each["subset"], _places(each["ids"])] for each in found]
    return [
        f"{len(found)} images have several classes within one subset, with the same bytes: at "
        "most one of their labels is right. None was left out.",
        _table(["subset", "images by class"], rows, "In several classes"),
    ]


def _places(ids: dict[str, list[str]]) -> str:
    """Ids of one image, by subset or by class."""
    return " = ".join(f"{name}: {', '.join(members)}" for name, members in ids.items())


def _table(columns: list[str], rows: list[list[str]], caption: str) -> html.Table:
    if len(rows) > _SHOWN:
        caption += f" (the first {_SHOWN} of {len(rows)}; all are in data_check.json)"
    return html.Table(columns, rows[:_SHOWN], caption, left=len(columns))

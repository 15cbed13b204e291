"""Pages in a headless Chromium, at the widths of a desktop and of a phone."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
WIDTHS = (1280, 400)


def measure_page(page: Path, folder: Path) -> list[dict[str, Any]]:
    """Shows a page in two frames of the widths that are tested; each tells its own size.

    The heading of the first sortable table is clicked, to see that scripts run.

    Args:
        page: a local HTML file.
        folder: for the page around the frames, and the browser's files.

    Returns:
        Of each width "scroll" and "client" (widths in pixels), "sort" (aria-sort of the heading),
        "first" (the first cell then) and "count" (rows); of a page without such a table "sort" is
        None.

    Raises:
        AssertionError: where the browser's console has a message.
    """
    frames = "".join(
        f'<iframe src="{page.resolve().as_uri()}" style="width:{width}px;height:900px;border:0">'
        "</iframe>"
        for width in WIDTHS
    )
    around = folder / "around.html"
    around.write_text(
        f"<!DOCTYPE html><body>{frames}<pre id=out></pre><script>"
        "onload = () => { document.getElementById('out').textContent = JSON.stringify("
        "[...document.querySelectorAll('iframe')].map(frame => {"
        "const root = frame.contentDocument.documentElement;"
        "const head = frame.contentDocument.querySelector('table.sortable th');"
        "if (head) head.click();"
        "const names = head ? [...head.closest('table').tBodies[0].rows]"
        ".map(r => r.cells[0].textContent) : [];"
        "return {scroll: root.scrollWidth, client: root.clientWidth,"
        " sort: head && head.getAttribute('aria-sort'), first: names[0], count: names.length};"
        "})); };</script>"
    )
    shown = subprocess.run(
        [
            *(BROWSER, "--headless", "--no-sandbox", "--disable-gpu"),
            *("--allow-file-access-from-files", "--enable-logging=stderr", "--dump-dom"),
            f"--user-data-dir={folder / 'profile'}",
            around.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in shown.stderr, shown.stderr[-2000:]
    text = shown.stdout.partition('<pre id="out">')[2].partition("</pre>")[0]
    return json.loads(text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&"))


def check_widths(sizes: list[dict[str, Any]]) -> None:
    """Each frame has the width that is tested, and nothing in it is wider."""
    for size, width in zip(sizes, WIDTHS, strict=True):
        assert width - 20 < size["client"] <= width  # without the vertical scroll bar
        assert size["scroll"] <= size["client"], size

"""Finished runs side by side: a table, a page of images, the figures as JSON."""

import json
from collections.abc import Sequence
from pathlib import Path

from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.reporting import html, plots
from candle_tf.reporting.results import Results, comparison_rows
from candle_tf.reporting.table import method_cells, method_table


def compare(runs: Sequence[Results], html_path: str | None, json_path: str | None) -> str:
    """The table of several runs; writes page and figures where paths are given.

    Raises:
        UserError: where two runs were not measured on the same split.
    """
    hashes = {run.split["hash"] for run in runs}
    if len(hashes) > 1:
        raise UserError(
            "The runs were not made on the same split: "
            + ", ".join(f"{run.config['run_dir']} on {run.split['hash'][:12]}" for run in runs)
            + ". Compare runs with the same data and split settings."
        )
    rows = comparison_rows(runs)
    if json_path:
        write_atomically(Path(json_path), (json.dumps({"rows": rows}, indent=2) + "\n").encode())
    if html_path:
        bars = html.Figure(plots.to_png(plots.accuracy_bars(rows)), "Accuracy by shot group")
        table = html.Table(*method_cells(rows))
        section = html.Section("Methods on the same split", [table, bars])
        html.write_report(html_path, "Comparison of runs", [section])
    return method_table(rows)

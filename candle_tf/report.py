"""Finished runs side by side: one table, one page of pictures, and the figures as JSON.

python -m candle_tf.report --runs=runs/a,runs/b --html=comparison.html --json=comparison.json
"""

import json
from pathlib import Path

from absl import flags

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.reporting import html, plots
from candle_tf.reporting.results import Results, comparison_rows, read_results
from candle_tf.reporting.table import method_cells, method_table
from candle_tf.run_folder import RunFolder

_RUNS = flags.DEFINE_list("runs", [], "folders of finished runs, separated by commas")
_HTML = flags.DEFINE_string("html", None, "where to write the page of pictures")
_JSON = flags.DEFINE_string("json", None, "where to write the figures")


def compare(runs: list[Results], html_path: str | None, json_path: str | None) -> str:
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


def main() -> None:
    """Prints the table of --runs."""
    if not _RUNS.value:
        raise UserError("--runs is empty; give folders of finished runs, separated by commas.")
    runs = [read_results(RunFolder(Path(path)).report_path) for path in _RUNS.value]
    print(compare(runs, _HTML.value, _JSON.value))


if __name__ == "__main__":
    app.run(lambda _: main())

"""Finished runs side by side: one table, one page of images, and the figures as JSON.

python -m candle_tf.report --runs=runs/a,runs/b --html=comparison.html --json=comparison.json
"""

from pathlib import Path

from absl import flags

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.reporting.comparison import compare
from candle_tf.reporting.results import read_results
from candle_tf.run_folder import RunFolder

_RUNS = flags.DEFINE_list("runs", [], "folders of finished runs, separated by commas")
_HTML = flags.DEFINE_string("html", None, "where to write the page of images")
_JSON = flags.DEFINE_string("json", None, "where to write the figures")


def main() -> None:
    """Prints the table of --runs."""
    if not _RUNS.value:
        raise UserError("--runs is empty; give folders of finished runs, separated by commas.")
    runs = [read_results(RunFolder(Path(path)).report_path) for path in _RUNS.value]
    print(compare(runs, _HTML.value, _JSON.value))


def command() -> None:
    """What `candle-report` and `python -m candle_tf.report` run."""
    app.run(lambda _: main(), needs_arguments=True)


if __name__ == "__main__":
    command()

"""Finished runs side by side: one table, one page of images, and the figures as JSON.

python -m candle_tf.report runs/a runs/b --html=comparison.html --json=comparison.json
"""

from pathlib import Path

from absl import flags

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.output_files import require_output_files
from candle_tf.reporting.comparison import TOLD_SETTINGS, compare
from candle_tf.reporting.whole_results import read_whole_results
from candle_tf.run_folder import RunFolder

_RUNS = flags.DEFINE_list(
    "runs", [], "folders of finished runs, separated by commas; arguments mean the same"
)
_HTML = flags.DEFINE_string("html", None, "where to write the page of images")
_JSON = flags.DEFINE_string("json", None, "where to write the figures")


def main(arguments: list[str]) -> None:
    """Prints the table of all given runs."""
    given = [*arguments, *_RUNS.value]
    if not given:
        raise UserError("There is no run: give folders of finished runs.")
    require_output_files({"html": _HTML.value, "json": _JSON.value})
    paths = [RunFolder(Path(path)).report_path for path in given]
    runs = [read_whole_results(path, TOLD_SETTINGS) for path in paths]
    print(compare(runs, _HTML.value, _JSON.value))


def command() -> None:
    """What `candle-report` and `python -m candle_tf.report` run."""
    app.run(lambda argv: main(argv[1:]), takes_arguments=True, needs_arguments=True)


if __name__ == "__main__":
    command()

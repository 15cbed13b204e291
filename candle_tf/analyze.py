"""What finished runs say about the paper's questions.

    python -m candle_tf.analyze runs/candle runs/cross_entropy --html=analysis.html

Weight norms head to tail, lambda during training, cost and gain of the teacher's resolutions; and
of the first run against each of the others: test images by which student is right, gain against
class size, and the classes that lose.
"""

from collections.abc import Sequence
from pathlib import Path

from absl import flags

from candle_tf import app
from candle_tf.config import settings_of_older_runs
from candle_tf.errors import UserError
from candle_tf.output_files import require_output_files
from candle_tf.reporting.analysis import analyze, read_run, sections_text
from candle_tf.reporting.html import write_report

flags.DEFINE_string("html", None, "where to write the page, with figures")


def main(folders: Sequence[str], html_path: str | None) -> None:
    """Prints what the runs in these folders say; writes the page where a path is given."""
    if not folders:
        raise UserError("Give folders of finished runs: python -m candle_tf.analyze RUN RUN ...")
    require_output_files({"html": html_path})
    earlier = settings_of_older_runs()
    sections = analyze([read_run(Path(folder), earlier) for folder in folders])
    print(sections_text(sections))
    if html_path:
        write_report(html_path, "Analysis of runs", sections)
        print(f"\nThe page with figures is {html_path}.")


def command() -> None:
    """What `candle-analyze` and `python -m candle_tf.analyze` run."""
    app.run(lambda arguments: main(arguments[1:], flags.FLAGS.html), takes_arguments=True)


if __name__ == "__main__":
    command()

"""Classifies images with an exported student.

    python -m candle_tf.predict runs/quickstart photos/ more.zip --top=3
    python -m candle_tf.predict runs/quickstart/export photos/ --csv=photos.csv --html=photos.html

Give a run's folder, its export or one file of that, and then what to classify: image files, folders
and archives, or a pipe (/dev/stdin) with one image. A file that is no readable image is a row with
its reason, and makes the exit code 1. In folders and archives, files without an image's extension
are left out, and a warning counts them.
"""

import dataclasses
import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags, logging

from candle_tf import app
from candle_tf.errors import UserError
from candle_tf.files import write_each
from candle_tf.output_files import require_output_files
from candle_tf.progress import Progress

if TYPE_CHECKING:
    from candle_tf.stages.predict import Prediction

_RUNTIME = flags.DEFINE_enum(
    "runtime",
    "auto",
    ("auto", "lce", "float", "saved_model"),
    "lce: the Larq Compute Engine; float: the float32 reference model in LiteRT; saved_model: "
    "TensorFlow; auto: what the first argument names, else the engine",
)
_TOP = flags.DEFINE_integer("top", 5, "most likely classes of each image", lower_bound=1)
_CSV = flags.DEFINE_string("csv", "", "a file to write the predictions to as CSV")
_JSONL = flags.DEFINE_string("jsonl", "", "a file to write the predictions to as JSON Lines")
_HTML = flags.DEFINE_string("html", "", "a page to write, with the images (best below 1,000)")
_ENCODING = flags.DEFINE_string(
    "archive_encoding", "", "of names in a ZIP or TAR that are not UTF-8, e.g. cp932"
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", 64, "images at once", lower_bound=1)


def main(arguments: list[str]) -> None:
    """Classifies all images; prints CSV where no file is asked for."""
    if len(arguments) < 2:
        raise UserError(
            "Give a run's folder and what to classify: python -m candle_tf.predict RUN IMAGES..."
        )
    outputs = require_output_files({flag.name: flag.value for flag in (_CSV, _JSONL, _HTML)})
    from candle_tf.data.sources.image_files import open_image_files, refuse_inputs_as_outputs
    from candle_tf.deploy.exported_student import load_exported
    from candle_tf.reporting.predictions import csv_lines
    from candle_tf.stages.predict import Prediction, predict

    student = load_exported(arguments[0], _RUNTIME.value)
    _refuse_in_export(Path(arguments[0]), outputs)
    with open_image_files(arguments[1:], _ENCODING.value) as files:
        refuse_inputs_as_outputs(files, outputs)
        top = min(_TOP.value, len(student.labels))
        found: list[Prediction] = []
        progress = Progress("predict", len(files))

        def follow(results: Iterator[Prediction]) -> Iterator[Prediction]:
            for result in results:
                # Images are for the page alone: of 10,000 they take a gigabyte.
                found.append(result if _HTML.value else dataclasses.replace(result, image=None))
                progress.advance(1)
                yield result
            progress.close()

        results = follow(predict(student, files, top, _BATCH_SIZE.value))
        if not outputs:
            sys.stdout.writelines(csv_lines(results, top))
        else:
            for _ in results:
                pass
        _write_files(found, top, f"Predictions of {student.source}")
        logging.info("%s", progress.summary())
    bad = [each for each in found if each.error]
    if bad:
        reasons = "\n".join(each.error for each in itertools.islice(bad, 10))
        raise SystemExit(f"{len(bad)} of {len(found)} images could not be classified:\n{reasons}")


def _refuse_in_export(student: Path, outputs: Sequence[Path]) -> None:
    """Refuses outputs among the files of the export: they would replace some, or be shipped."""
    from candle_tf.deploy.exported_student import find_export

    export = find_export(student)[0].resolve()
    for path in outputs:
        if path.resolve().is_relative_to(export):
            raise UserError(
                f"{path} is in {export}, the folder of the exported student, whose files are not "
                "to be replaced. Write it elsewhere."
            )


def _write_files(found: "list[Prediction]", top: int, title: str) -> None:
    """Writes the files that are asked for."""
    from candle_tf.reporting.predictions import csv_lines, json_lines, write_lines, write_page

    writes: list[tuple[str, Callable[[Path], None]]] = [
        (_CSV.value, lambda path: write_lines(path, csv_lines(found, top))),
        (_JSONL.value, lambda path: write_lines(path, json_lines(found))),
        (_HTML.value, lambda path: write_page(path, title, found)),
    ]
    write_each(partial(write, Path(name)) for name, write in writes if name)


def command() -> None:
    """What `candle-predict` and `python -m candle_tf.predict` run."""
    app.run(lambda argv: main(argv[1:]), takes_arguments=True, needs_arguments=True)


if __name__ == "__main__":
    command()

"""Measures an exported student on labelled images, such as new ones of the same classes.

    python -m candle_tf.evaluate runs/flowers --data_dir=new_flowers/
    python -m candle_tf.evaluate runs/flowers --dataset=list --data_dir=photos --test_list=new.csv

Prints accuracy over all classes, by shot group of the training, and the least accurate classes with
their precision and F1 score; --csv writes all classes, --json all figures. Classes without an image
here are not measured.
"""

import csv
import io
import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from absl import flags

from candle_tf import app
from candle_tf.config import Config
from candle_tf.errors import UserError
from candle_tf.files import write_atomically, write_each
from candle_tf.metrics import Metrics, untested_sentence
from candle_tf.output_files import require_output_files
from candle_tf.plugins import import_plugins
from candle_tf.reporting.table import method_table, percent, text_table

if TYPE_CHECKING:
    from candle_tf.api import Model

# Flags of a training that say where labelled images are.
_OF_DATA = ("data_dir", "test_list", "class_names", "archive_encoding", "on_bad_image")
_SHOWN_CLASSES = 10
_SCORES = ("precision %", "F1 %")
_COLUMNS = ("class", "shots", "%", *_SCORES)


def class_rows(model: "Model", metrics: Metrics) -> list[dict[str, str]]:
    """Of each measured class "class", "shots", "%" (its accuracy), "precision %" and "F1 %".

    The least accurate is first. A class that nothing was predicted as has no precision.
    """
    groups = {name: group for group, names in model.shot_groups.items() for name in names}
    each = zip(
        model.labels,
        metrics.per_class,
        metrics.per_class_precision,
        metrics.per_class_f1,
        strict=True,
    )
    measured = [
        (accuracy, name, scores) for name, accuracy, *scores in each if accuracy is not None
    ]
    return [
        {
            "class": name,
            "shots": groups.get(name, ""),
            "%": percent(accuracy),
            **{
                column: percent(score)
                for column, score in zip(_SCORES, scores, strict=True)
                if score is not None
            },
        }
        for accuracy, name, scores in sorted(measured, key=lambda row: row[0])
    ]


def metrics_text(model: "Model", metrics: Metrics) -> str:
    """The printed form: means, then the least accurate classes, then what was not measured."""
    row = {"model": model.student.source, "mean": metrics.mean, **metrics.groups}
    rows = class_rows(model, metrics)
    measured = f"{metrics.images:,} images of {len(rows):,} classes"
    if untested := untested_sentence(metrics.untested_classes):
        measured += f"; {untested}"
    right = f"{percent(metrics.overall)} % of the images are right"
    if metrics.top_5 is not None:
        right += f"; top-5 {percent(metrics.top_5)} %, mean over classes"
    return "\n\n".join(
        [
            method_table([row]),
            f"{measured}; {right}. Least accurate:",
            text_table(rows[:_SHOWN_CLASSES], _COLUMNS, left=("class", "shots")),
        ]
    )


def define_flags() -> None:
    """Defines this main's flags: when it runs, as other mains have flags of the same names."""
    flags.DEFINE_string("plugin", "", "Python modules that register data sources of your own")
    flags.DEFINE_string("dataset", "folder", "as of candle_tf.train; its test subset, or all of it")
    for name in _OF_DATA:
        field = Config.fields()[name]
        flags.DEFINE_string(name, field.default, field.metadata["help"])
    flags.DEFINE_enum(
        "runtime", "auto", ("auto", "lce", "float", "saved_model"), "as of candle_tf.predict"
    )
    flags.DEFINE_string("csv", "", "where to write accuracy, precision and F1 of each class")
    flags.DEFINE_string("json", "", "where to write all figures")


def main(arguments: list[str]) -> None:
    """Measures one export, and prints and writes what it reaches."""
    given = flags.FLAGS
    if len(arguments) != 1:
        raise UserError(
            "Give one run's folder or its export: python -m candle_tf.evaluate RUN --data_dir=..."
        )
    require_output_files({"csv": given.csv, "json": given.json})
    import_plugins(given.plugin)
    # TensorFlow comes with it.
    from candle_tf.api import load

    model = load(arguments[0], given.runtime)
    metrics = model.evaluate(given.dataset, **{name: given[name].value for name in _OF_DATA})
    print(metrics_text(model, metrics))
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS)
    writer.writeheader()
    writer.writerows(class_rows(model, metrics))
    figures = json.dumps(metrics.to_json(), indent=2) + "\n"
    files = ((given.csv, text.getvalue()), (given.json, figures))
    write_each(
        partial(write_atomically, Path(path), content.encode()) for path, content in files if path
    )


def command() -> None:
    """What `candle-evaluate` and `python -m candle_tf.evaluate` run."""
    define_flags()
    app.run(lambda argv: main(argv[1:]), takes_arguments=True, needs_arguments=True)


if __name__ == "__main__":
    command()

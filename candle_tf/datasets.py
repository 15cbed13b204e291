"""Lists the 15 data sets of the paper, and which of them are available.

    python -m candle_tf.datasets --tfds_dir=/data/tfds --json=catalog.json

Nothing is downloaded.
"""

import json
import os
from pathlib import Path
from typing import Any

from absl import flags

from candle_tf import app
from candle_tf.data.catalog import CATALOG, EVAL_TRANSFORM, RESOLUTION, TFDS_PREFIX, Entry
from candle_tf.files import write_atomically
from candle_tf.reporting.table import text_table

_COLUMNS = ("name", "classes", "IF", "px", "profile", "training", "source", "licence", "state")


def state(entry: Entry, tfds_dir: Path) -> str:
    """Whether a data set is available ("here"), or what to do to get it."""
    if not entry.source.startswith(TFDS_PREFIX):
        return "give --train_list" if entry.source == "list" else "give --data_dir"
    builder = entry.source.removeprefix(TFDS_PREFIX)
    prepared = list((tfds_dir / builder).glob("**/dataset_info.json"))
    return "here" if prepared else f"run: tfds build {builder} --file_format=array_record"


def row_figures(entry: Entry, tfds_dir: Path) -> dict[str, Any]:
    """All fields of a row, JSON-ready."""
    return {
        "name": entry.name,
        "title": entry.title,
        "classes": entry.classes,
        "imbalance_factor": entry.imbalance_factor,
        "resolution": RESOLUTION,
        "profile": entry.profile,
        "selection": entry.selection,
        "training_total": entry.training_total,
        "source": entry.source,
        "fetch": entry.fetch,
        "licence": entry.licence,
        "train_transform": entry.train_transform,
        "eval_transform": EVAL_TRANSFORM,
        "smoothing": list(entry.smoothing) if entry.smoothing else None,
        "config": entry.config,
        "state": state(entry, tfds_dir),
    }


def catalog_text(rows: list[dict[str, Any]]) -> str:
    """The rows as a text table."""
    shown = [
        {
            **row,
            "IF": f"{row['imbalance_factor']:g}",
            "px": row["resolution"],
            "training": f"{row['training_total']:,}" if row["training_total"] else None,
        }
        for row in rows
    ]
    return text_table(shown, _COLUMNS, left=("name", "profile", "source", "licence", "state"))


def default_tfds_dir() -> str:
    """The default data folder of TensorFlow Datasets."""
    return os.environ.get("TFDS_DATA_DIR") or str(Path("~/tensorflow_datasets"))


def define_flags() -> None:
    """Defines the flags; only when this main runs, as others have flags of the same names."""
    flags.DEFINE_string("tfds_dir", default_tfds_dir(), "TensorFlow Datasets' data folder")
    flags.DEFINE_string("json", None, "file to write the rows to")


def main() -> None:
    """Prints the catalog."""
    given = flags.FLAGS
    rows = [row_figures(entry, Path(given.tfds_dir).expanduser()) for entry in CATALOG.values()]
    if given.json:
        write_atomically(Path(given.json), (json.dumps(rows, indent=2) + "\n").encode())
    print(catalog_text(rows))
    print(f"\nTrain: {RESOLUTION} px crops; evaluation: {EVAL_TRANSFORM}. A dash: not published.")
    print("How to get a data set that is not here: python -m candle_tf.train --dataset=<name>.")


def command() -> None:
    """What `candle-datasets` and `python -m candle_tf.datasets` run."""
    define_flags()
    app.run(lambda _: main())


if __name__ == "__main__":
    command()

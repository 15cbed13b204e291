"""Draws the split that a training with the same flags would draw; prints it and writes it down.

    python -m tools.make_split --dataset=folder --data_dir=images.zip --profile=exponential
    python -m tools.make_split --flagfile=configs/cub200.cfg --out=cub200.json --json=figures.json
    python -m candle_tf.train --split=cub200.json --dataset=cub200 ...

Takes the flags of candle_tf.train; those that are not of the data play no part. With --split=FILE a
saved split is checked against the data and shown. An image of the class counts is written too.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from candle_tf import app
from candle_tf.command_help import TRAINING_HELP
from candle_tf.config import Config
from candle_tf.data.splits.longtail import shot_groups
from candle_tf.data.splits.near_duplicates import find_near_duplicates, near_duplicates_text
from candle_tf.data.splits.split import Split, load_split, save_split
from candle_tf.errors import UserError
from candle_tf.files import write_atomically
from candle_tf.output_files import require_output_files
from candle_tf.reporting.plots.classes import class_counts
from candle_tf.reporting.plots.style import to_png
from candle_tf.reporting.table import text_table
from candle_tf.stages.split import draw_split, open_data, untested_text

# Of more classes than this, the table shows the head and the tail.
_SHOWN_CLASSES = 40
# What a class is counted as, and where its number is found; shot groups go by the first.
_COLUMNS = {"counts": "counts", "train": "train_counts", "validation": "validation_counts",
            "test": "test_counts"}  # fmt: skip


def split_figures(split: Split) -> dict[str, Any]:
    """Everything a split's table says, JSON-ready.

    Returns:
        "source", "profile", "imbalance_factor", "selection", "seed"; "classes", "total" (training
        images by which shot groups go); "train", "validation", "test" (numbers of images);
        "counts", "train_counts", "validation_counts", "test_counts" by class name; "groups"
        (numbers of classes); "hash", "source_hash".
    """
    names = split.class_names

    def by_name(counts: np.ndarray) -> dict[str, int]:
        return dict(zip(names, counts.tolist(), strict=True))

    def of(labels: np.ndarray) -> dict[str, int]:
        return by_name(np.bincount(labels, minlength=len(names)))

    groups = shot_groups(split.train_counts)
    return {
        "source": split.source,
        "profile": split.profile,
        "imbalance_factor": split.imbalance_factor,
        "selection": split.selection,
        "seed": split.seed,
        "classes": len(names),
        "total": int(split.train_counts.sum()),
        "train": len(split.train.ids),
        "validation": len(split.validation.ids),
        "test": len(split.test.ids),
        "groups": {name: len(classes) for name, classes in groups.items()},
        "counts": by_name(split.train_counts),
        "train_counts": of(split.train.labels),
        "validation_counts": of(split.validation.labels),
        "test_counts": of(split.test.labels),
        "hash": split.hash,
        "source_hash": split.source_hash,
    }


def split_text(figures: dict[str, Any]) -> str:
    """The printed form: classes from head to tail with their counts, totals, groups, hash."""
    counts = figures["counts"]
    shot = {c: name for name, classes in shot_groups(np.array(list(counts.values()))).items()
            for c in classes}  # fmt: skip
    rows = [
        {
            "class": name,
            "shot": shot[c],
            **{column: f"{figures[key][name]:,}" for column, key in _COLUMNS.items()},
        }
        for c, name in enumerate(counts)
    ]
    rows.sort(key=lambda row: -counts[row["class"]])
    if len(rows) > _SHOWN_CLASSES:
        half = _SHOWN_CLASSES // 2
        rows[half:-half] = [{"class": f"({len(rows) - _SHOWN_CLASSES} more classes)"}]
    groups = ", ".join(f"{number} {name}-shot" for name, number in figures["groups"].items())
    return "\n".join(
        [
            text_table(rows, ("class", "shot", *_COLUMNS), left=("class", "shot")),
            "",
            f"{figures['source']}, {figures['profile']} profile, {_imbalance(figures)}"
            f"{figures['selection']} selection, seed {figures['seed']}",
            f"{figures['classes']:,} classes ({groups}), {figures['total']:,} training images; "
            f"{figures['train']:,} to learn from, {figures['validation']:,} to choose by, "
            f"{figures['test']:,} to test on",
            f"largest class {max(counts.values()):,}, smallest {min(counts.values()):,}",
            f"hash {figures['hash']}",
        ]
    )


def _imbalance(figures: dict[str, Any]) -> str:
    """The factor; the natural profile has none."""
    natural = figures["profile"] == "natural"
    return "" if natural else f"imbalance factor {figures['imbalance_factor']:g}, "


def save_new(split: Split, path: Path) -> None:
    """Saves a split where no other one is.

    Raises:
        UserError: where the file is there and is not the same split.
    """
    if path.exists() and load_split(path).hash != split.hash:
        raise UserError(
            f"{path} holds another split, on which a training may rest. Give another --out, or "
            "remove the file."
        )
    save_split(split, path)


def histogram(split: Split) -> bytes:
    """PNG of the training images per class, head to tail, coloured by shot group."""
    groups = shot_groups(split.train_counts)
    return to_png(class_counts(split.train_counts, groups, split.class_names))


def define_flags() -> None:
    """Defines this main's own flags: when it runs, as other mains have flags of the same names."""
    flags.DEFINE_string("out", "split.json", "where to save the split")
    flags.DEFINE_string(
        "histogram", "", "where to draw it; beside --out, as <name>.histogram.png, if empty"
    )
    flags.DEFINE_string("json", None, "where to write the figures")


def main(config: Config) -> None:
    """Draws, prints and writes the split."""
    given = flags.FLAGS
    out = Path(given.out)
    # Not flowers.png beside flowers.json, which may be an image of the user.
    default = out.with_name(f"{out.stem}.histogram.png")
    image = Path(given.histogram) if given.histogram else default
    require_output_files({"out": out, "histogram": image, "json": given.json})
    with open_data(config) as source:
        split = draw_split(config, source)
        untested = untested_text(split, source)
        near = config.data.near_duplicates
        cache = config.run.cache_path
        pairs = find_near_duplicates(source, split, near, cache) if near >= 0 else None
    figures = split_figures(split)
    save_new(split, out)
    write_atomically(image, histogram(split))
    if given.json:
        write_atomically(Path(given.json), (json.dumps(figures, indent=2) + "\n").encode())
    if pairs is not None:
        print(f"{near_duplicates_text(pairs)}\n")
    told = [
        split_text(figures),
        f"{untested}." if untested else "",
        f"Saved in {out}, drawn in {image}.",
    ]
    print("\n\n".join(filter(None, told)))


if __name__ == "__main__":
    app.define_config_flags()
    define_flags()
    # Selecting an epoch does not matter here: a split may have no validation set.
    app.run(
        lambda _: main(app.config_from_flags(select_epoch="last")),
        needs_arguments=True,
        help_groups={
            "Split": ("out", "histogram", "json", "selection", "test_fraction", "split"),
            **{title: TRAINING_HELP[title] for title in ("Data", "Run")},
        },
    )

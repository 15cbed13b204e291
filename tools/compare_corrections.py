"""What the correction of preferred classes is worth on trained students, by where p is measured.

    python -m tools.compare_corrections runs/flowers runs/birds

    z' = z - t log p                                      (`candle_tf.methods.prior_correction`)

Three rows for each run: as trained, with the p of training images, with that of validation images,
at t = 1. Test images have no part in it: accuracies are those of training images that the run's
profile left out, or where there are none of the validation images, each corrected by the others.
Means are of the classes that have such images; the others are named below the table.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from absl import flags, logging

from candle_tf import app
from candle_tf.config import Config
from candle_tf.data.images.scan import reason, scan_images
from candle_tf.data.images.store import open_image_store
from candle_tf.data.sources.source import Source
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.methods.prior_correction import (
    held_out_log_predictions,
    log_prediction,
    mean_prediction,
    split_by_class,
    split_with_more,
)
from candle_tf.metrics import evaluate_logits, untested_sentence
from candle_tf.plugins import import_plugins
from candle_tf.reporting.results import read_results
from candle_tf.reporting.table import SHOT_GROUPS, percent, text_table
from candle_tf.run_folder import RunFolder
from candle_tf.stages.prepare import Data, prepare
from candle_tf.stages.split import open_data

# Logits `[N, C]` and labels `[N]`.
Outputs = tuple[np.ndarray, np.ndarray]
Groups = Mapping[str, np.ndarray]
_COLUMNS = ("run", "images", "classes", "p of", "mean %", *SHOT_GROUPS)


def correction_rows(
    name: str, train: Outputs, validation: Outputs, left_out: Outputs, groups: Groups
) -> list[dict[str, str]]:
    """The rows of a run.

    Args:
        name: of the run.
        train, validation, left_out: logits `[N, C]` as trained, and labels `[N]`, of the training
            images, the validation images, and those of neither, of which there may be none.
        groups: classes of each shot group.
    """
    logits, labels = left_out if len(left_out[1]) else validation
    each = {
        "none": logits,
        "training images": logits - log_prediction(mean_prediction(split_by_class(*train))),
        "validation images": logits
        - _by_validation(train, validation, is_other=len(left_out[1]) > 0),
    }
    classes = tuple(map(str, range(logits.shape[1])))
    rows = []
    for images, corrected in each.items():
        figures = evaluate_logits(corrected, labels, groups, classes)
        measured = f"{len(np.unique(labels)):,} of {len(classes):,}"
        row = {"run": name, "images": f"{len(labels):,}", "classes": measured, "p of": images}
        row["mean %"] = percent(figures.mean)
        rows.append(row | {group: percent(value) for group, value in figures.groups.items()})
    return rows


def unmeasured_text(
    name: str, validation: np.ndarray, left_out: np.ndarray, classes: Sequence[str]
) -> str:
    """Names the classes that are in none of a run's rows; "" where there is none.

    Args:
        name: of the run.
        validation, left_out: labels of these images, as for `correction_rows`.
        classes: names of all classes.
    """
    labels, images = (left_out, "left-out") if len(left_out) else (validation, "validation")
    missing = np.setdiff1d(np.arange(len(classes)), labels)
    sentence = untested_sentence([classes[c] for c in missing], images)
    return sentence and f"{name}: {sentence}."


def _by_validation(train: Outputs, validation: Outputs, is_other: bool) -> np.ndarray:
    """log p `[C]` for other images, or for each validation image by the others, `[N, C]`."""
    if not is_other:
        return held_out_log_predictions(*validation, *train)
    return log_prediction(mean_prediction(split_with_more(*validation, *train)))


def _outputs(config: Config, network: Any, subset: Subset) -> Outputs:
    from candle_tf.stages.evaluate import logits_of, read_pixels

    if not len(subset):
        return np.zeros((0, 1), np.float32), subset.labels
    return logits_of(network, read_pixels(subset, config.student.image_size)), subset.labels


def _left_out(config: Config, data: Data, source: Source, cache: Path) -> Subset:
    """Training images of the data set that are neither in training nor in validation, and can be
    read; others are told."""
    used = {image for part in data.split.subsets.values() for image in part.ids}
    used |= {entry["id"] for entry in data.check.get("left_out", ())}
    places = [place for place, image in enumerate(source.train.ids) if image not in used]
    scan = scan_images(source, [source.train.ids[place] for place in places], cache)
    if scan.bad:
        logging.warning(
            "%d of %d left-out images cannot be read and are not measured, such as: %s",
            *(len(scan.bad), len(places), reason(source, scan.bad[0])),
        )
    places = [place for place, readable in zip(places, scan.readable, strict=True) if readable]
    ids = [source.train.ids[place] for place in places]
    side = data.train.images.array.shape[1]
    images = open_image_store(source, ids, side, cache, resize=config.data.resize)
    return Subset(images, images.rows_of(ids), source.train.labels[places])


def _rows_of_run(run: str) -> tuple[list[dict[str, str]], str]:
    """The rows of a run, and which classes are in none of them."""
    from candle_tf.methods.annealing import find_annealed_quantizers, set_exact_signs
    from candle_tf.stages.earlier_run import EarlierRun

    config = Config.from_json(Path(run) / "config.json").replace(run_dir=run)
    data = prepare(config, RunFolder(Path(run), writes=False))
    if not len(data.validation):
        raise UserError(f"{run} has no validation images, of which p is to be measured.")
    selected = read_results(Path(run) / "report.json").selected_epoch
    network = EarlierRun(Path(run), run).load_network(epoch=selected)
    set_exact_signs(find_annealed_quantizers(network))
    train, validation = (_outputs(config, network, part) for part in (data.train, data.validation))
    with open_data(config) as source, TemporaryDirectory() as cache:
        left_out = _outputs(config, network, _left_out(config, data, source, Path(cache)))
    missing = unmeasured_text(run, validation[1], left_out[1], data.split.class_names)
    return correction_rows(run, train, validation, left_out, data.groups), missing


def main(runs: list[str]) -> None:
    """Prints the rows of all runs."""
    if not runs:
        raise UserError("Give folders of finished runs of CANDLE.")
    found = [_rows_of_run(run) for run in runs]
    rows = [row for each, _ in found for row in each]
    print(text_table(rows, _COLUMNS, left=("run", "p of")))
    for missing in (told for _, told in found if told):
        print(missing)


def define_flags() -> None:
    """Defines this main's flags: when it runs, as other mains have flags of the same names."""
    flags.DEFINE_string("plugin", "", "Python modules that the runs' settings name as --plugin")


def _run(arguments: list[str]) -> None:
    import_plugins(flags.FLAGS.plugin)
    main(arguments[1:])


if __name__ == "__main__":
    define_flags()
    app.run(_run, takes_arguments=True, needs_arguments=True)

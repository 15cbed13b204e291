"""What the data flags stand for: an open data set, and its split, drawn or read back.

Knows nothing of TensorFlow, so that a split is drawn and shown at once.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from absl import logging

from candle_tf.config import Config
from candle_tf.data.catalog import CATALOG
from candle_tf.data.sources.registry import Source, open_source
from candle_tf.data.splits.class_counts import read_class_counts
from candle_tf.data.splits.longtail import MIN_TO_HOLD_OUT
from candle_tf.data.splits.split import (
    Split,
    check_split,
    leave_out,
    load_split,
    make_split,
    save_split,
)
from candle_tf.errors import UserError
from candle_tf.metrics import untested_sentence
from candle_tf.reporting.table import printable
from candle_tf.run_folder import RunFolder


def open_data(config: Config) -> Source:
    """Opens the data set of a run; close it, or use it in a `with` statement.

    Raises:
        UserError: for data that are not there, or are not laid out as expected.
    """
    data = config.data
    source = open_source(data.kind, **data.locations, scratch=str(config.run.cache_path))
    entry = CATALOG.get(data.dataset)
    if entry and len(source.class_names) != entry.classes:
        logging.warning(
            "--dataset=%s has %d classes here, where the catalog has %d",
            entry.name,
            len(source.class_names),
            entry.classes,
        )
    return source


def draw_split(config: Config, source: Source) -> Split:
    """The split that the settings stand for: read from --split, or drawn.

    Raises:
        UserError: for values out of range, or a saved split of other data.
    """
    settings = config.data
    if settings.split:
        split = load_split(settings.split)
        check_split(split, source, f"--split={settings.split}")
        log_draw(split, settings.split)
        return split
    wanted = None
    if settings.profile == "counts":
        wanted = read_class_counts(settings.class_counts, source.class_names)
    split = make_split(
        source,
        profile=settings.profile,
        imbalance_factor=settings.imbalance_factor,
        validation_fraction=settings.validation_fraction,
        test_fraction=settings.test_fraction,
        seed=config.run.seed,
        selection=settings.selection,
        class_counts=wanted,
    )
    _log_images_left_out(split, source)
    return split


def log_draw(split: Split, path: str | Path) -> None:
    """Says how a saved split was drawn: the settings of a draw have no effect on it.

    Args:
        split: that was read.
        path: where it was read from.
    """
    natural = split.profile == "natural"
    logging.info(
        "%s: %s profile, %s%s selection, seed %d",
        path,
        split.profile,
        "" if natural else f"imbalance factor {split.imbalance_factor:g}, ",
        split.selection,
        split.seed,
    )


def untested_text(split: Split, source: Source) -> str:
    """Says which classes have no test images, and why where these are held out; "" if all have."""
    tested = np.bincount(split.test.labels, minlength=len(split.class_names))
    names = [split.class_names[c] for c in np.flatnonzero(tested == 0)]
    said = printable(untested_sentence(names))
    if not said or source.test is not None:
        return said
    return f"{said} (a class of fewer than {MIN_TO_HOLD_OUT} images gives none up)"


def _log_images_left_out(split: Split, source: Source) -> None:
    """How many images the profile leaves out."""
    available = len(source.train.ids) - (0 if source.test else len(split.test.ids))
    used = int(split.train_counts.sum())
    if used < available:
        logging.info(
            "The %s profile (imbalance factor %g) uses %d of %d training images and leaves %d out; "
            "--profile=natural uses all",
            split.profile,
            split.imbalance_factor,
            used,
            available,
            available - used,
        )


def wants_other_counts(
    config: Config, folder: RunFolder, split: Split, left_out: Sequence[Mapping[str, str]]
) -> bool:
    """Whether --class_counts has other counts than when a run's split was drawn.

    Args:
        config: The settings.
        folder: Of the run.
        split: Of the run.
        left_out: "part" and "class" of the images that it goes without, as they cannot be read.

    Raises:
        UserError: Where it has, and something was trained or these are copies of a run's records.
    """
    settings = config.data
    if settings.profile != "counts" or settings.split or folder.has_found_split:
        return False
    fixed = folder.has_begun or not folder.config_path.exists()
    try:
        wanted = read_class_counts(settings.class_counts, split.class_names)
    except UserError as error:
        if not fixed:
            raise
        logging.warning("Whether the class counts are still the same cannot be told: %s", error)
        return False
    counted = ("train",) if split.own_validation else ("train", "validation")
    fewer = Counter(entry["class"] for entry in left_out if entry["part"] in counted)
    drawn = [
        count + fewer[name]
        for name, count in zip(split.class_names, split.train_counts.tolist(), strict=True)
    ]
    if wanted == drawn:
        return False
    if fixed:
        raise UserError(
            f"--class_counts={settings.class_counts} has other counts than those that the run in "
            f"{config.run.run_dir} began with. Restore them, or give another --run_dir."
        )
    return True


def require_split(folder: RunFolder) -> None:
    """Refuses to draw a new split for what was trained: it would put images that were trained on
    into the other subsets, where images were added or the split had been given.

    Args:
        folder: Of the run.

    Raises:
        UserError: Where something was trained and split.json is missing.
    """
    if folder.has_epochs and not folder.split_path.exists():
        raise UserError(
            f"{folder.split_path} is missing, so that nothing tells on which images was trained "
            "what is there. Restore it, or give another --run_dir."
        )


def run_split(
    config: Config, folder: RunFolder, source: Source, left_out: Collection[str] = ()
) -> Split:
    """A run's split: the one in its folder, or a new one, saved there.

    Args:
        config: The settings.
        folder: Of the run.
        source: The data set.
        left_out: Ids of images that a new split goes without, as they cannot be read.

    Raises:
        UserError: as `draw_split` and `require_split`; or where the folder's split is of other
            data, or not --split, or not the one that its training began with.
    """
    require_split(folder)
    if not folder.split_path.exists():
        split = leave_out(draw_split(config, source), left_out)
        save_split(split, folder.split_path)
        return split
    split = load_split(folder.split_path)
    check_split(split, source)
    begun_with = folder.manifest().get("split", split.hash)
    if folder.has_epochs and begun_with != split.hash:
        raise UserError(
            f"{folder.split_path} is another split ({split.hash[:12]}) than the one that the run "
            f"began with ({str(begun_with)[:12]}). Restore it, or give another --run_dir."
        )
    if config.data.split and leave_out(load_split(config.data.split), left_out).hash != split.hash:
        raise UserError(
            f"{folder.path} holds a run with another split than --split={config.data.split}. Give "
            "another --run_dir, or leave --split out to resume that run."
        )
    return split

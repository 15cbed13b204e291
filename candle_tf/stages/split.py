"""What the data flags stand for: an open data set, and its split, drawn or read back.

Knows nothing of TensorFlow, so that a split is drawn and shown at once.
"""

from collections.abc import Collection

from absl import logging

from candle_tf.config import LISTS, Config
from candle_tf.data.catalog import CATALOG, kind_of
from candle_tf.data.sources.registry import Source, open_source
from candle_tf.data.splits.class_counts import read_class_counts
from candle_tf.data.splits.split import (
    Split,
    check_split,
    leave_out,
    load_split,
    make_split,
    save_split,
)
from candle_tf.errors import UserError
from candle_tf.run_folder import RunFolder


def open_data(config: Config) -> Source:
    """Opens the data set of a run; close it, or use it in a `with` statement.

    Raises:
        UserError: for data that are not there, or are not laid out as expected.
    """
    place = {name: getattr(config, name) for name in LISTS} | {"scratch": str(config.cache_path)}
    kind = kind_of(config.dataset, config.data_dir, config.train_list)
    source = open_source(kind, config.data_dir, **place)
    entry = CATALOG.get(config.dataset)
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
    if config.split:
        split = load_split(config.split)
        check_split(split, source)
        logging.info(
            "%s: %s profile, imbalance factor %g, %s selection, seed %d",
            config.split,
            split.profile,
            split.imbalance_factor,
            split.selection,
            split.seed,
        )
        return split
    wanted = None
    if config.profile == "counts":
        wanted = read_class_counts(config.class_counts, source.class_names)
    return make_split(
        source,
        profile=config.profile,
        imbalance_factor=config.imbalance_factor,
        validation_fraction=config.validation_fraction,
        test_fraction=config.test_fraction,
        seed=config.seed,
        selection=config.selection,
        class_counts=wanted,
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
        UserError: as `draw_split`; or where the folder's split is of other data, or not --split.
    """
    if not folder.split_path.exists():
        split = leave_out(draw_split(config, source), left_out)
        save_split(split, folder.split_path)
        return split
    split = load_split(folder.split_path)
    check_split(split, source)
    if config.split and leave_out(load_split(config.split), left_out).hash != split.hash:
        raise UserError(
            f"{folder.path} holds a run with another split than --split={config.split}. Give "
            "another --run_dir, or leave --split out to go on with that run."
        )
    return split

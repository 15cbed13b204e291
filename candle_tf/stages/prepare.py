"""First stage: open the data, draw or read back the split, decode the images."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from absl import logging

from candle_tf.config import Config
from candle_tf.data.image_sizes import largest_side
from candle_tf.data.images.store import ImageStore, open_image_store, store_side
from candle_tf.data.sources.registry import LabelledImages
from candle_tf.data.splits.longtail import shot_groups
from candle_tf.data.splits.split import Split
from candle_tf.data.subset import Subset
from candle_tf.distribute import ONE_PROCESS, Workers
from candle_tf.run_folder import RunFolder
from candle_tf.stages.check_images import check_split
from candle_tf.stages.split import open_data, untested_text
from candle_tf.stages.unlabelled import open_unlabelled_images


@dataclass(frozen=True)
class Data:
    """A long-tailed split with its images decoded.

    Attributes:
        split: ids and labels of the subsets.
        train, validation, test: the subsets.
        counts: training images of each class, validation included, int64 [C].
        groups: classes of each shot group that has any.
        check: result of reading all images, see `check_images.check_split`.
        unlabelled: images without labels (--unlabelled_dir), if there are any.
    """

    split: Split
    train: Subset
    validation: Subset
    test: Subset
    counts: np.ndarray
    groups: dict[str, np.ndarray]
    check: dict[str, Any] = field(default_factory=dict)
    unlabelled: Subset | None = None

    @property
    def classes(self) -> int:
        """C."""
        return len(self.split.class_names)

    @property
    def validation_counts(self) -> np.ndarray:
        """Validation images of each class, int64 `[C]`."""
        return np.bincount(self.validation.labels, minlength=self.classes)


def prepare(
    config: Config,
    folder: RunFolder,
    workers: Workers = ONE_PROCESS,
    check: Callable[[Split], None] | None = None,
) -> Data:
    """Opens everything a run learns from; writes split.json on the first call.

    Of workers that share the folder the chief reads all images and writes the split; then all of
    them decode, each the blocks that no other does, where they share the cache folder.

    Args:
        config: the run's settings.
        folder: of the run.
        workers: that train together.
        check: refuses a split that the settings cannot be used with, before images are decoded.

    Raises:
        UserError: for data that cannot be used, or that changed since the split was drawn; what
            `check` raises.
    """
    with ExitStack() as opened:
        source = opened.enter_context(open_data(config))
        if not workers.is_chief:
            workers.wait_for_all()
        split, record = check_split(config, folder, source)
        if workers.is_chief:
            workers.wait_for_all()
        if check:
            check(split)
        untested = untested_text(split, source)
        parts = split.subsets.values()
        ids = [image_id for part in parts for image_id in part.ids]
        resize, store = config.data.resize, config.data.store
        resolutions = config.calibration.calibration_resolutions
        largest = largest_side(config.training.progressive_sizes, config.student.image_size)
        side = store_side(largest, resolutions, resize)
        images = open_image_store(
            source,
            ids,
            side,
            config.run.cache_path,
            resize=resize,
            store=store,
        )
        if images.streamed:
            opened.pop_all()  # read from until the run ends
    unlabelled = None
    if config.unlabelled.unlabelled_dir:
        unlabelled = open_unlabelled_images(
            config, record["unlabelled"], folder.unlabelled_contents_path, side
        )
    train, validation, test = (_examples(images, part) for part in parts)
    groups = shot_groups(split.train_counts)
    logging.info(
        "%d classes, %d training, %d validation and %d test images; classes by shot: %s",
        len(split.class_names),
        len(train),
        len(validation),
        len(test),
        ", ".join(f"{len(members)} {name}" for name, members in groups.items()),
    )
    if untested:
        logging.warning("%s", untested)
    return Data(split, train, validation, test, split.train_counts, groups, record, unlabelled)


def _examples(images: ImageStore, part: LabelledImages) -> Subset:
    return Subset(images, images.rows_of(part.ids), part.labels)

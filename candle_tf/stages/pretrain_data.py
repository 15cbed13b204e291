"""The images of a pretraining: opened, compared with a test set, some held out."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from absl import logging

from candle_tf.data.catalog import kind_of
from candle_tf.data.images.scan import list_unreadable, reason, scan_images
from candle_tf.data.images.store import image_key, open_image_store
from candle_tf.data.sources.registry import open_source
from candle_tf.data.sources.source import Source
from candle_tf.data.sources.unlabelled import open_unlabelled
from candle_tf.data.splits.duplicates import shared_ids
from candle_tf.data.subset import Subset
from candle_tf.errors import UserError
from candle_tf.stages.pretrain_record import Beginning, Contents, compare_contents
from candle_tf.stages.pretrain_settings import Pretraining
from candle_tf.stages.replica_shares import refuse_batch, refuse_few

# Images whose size is read before all are stored.
_SAMPLE = 256
# An image's key is uniform below it.
_UNIFORM = 2**32


@dataclass(frozen=True)
class PretrainingData:
    """Images, all with the label 0.

    Attributes:
        train: learned from.
        heldout: not learned from; they choose the epoch.
        contents: of all images.
    """

    train: Subset
    heldout: Subset
    contents: Contents


def open_images(
    settings: Pretraining, begun: Beginning | None = None, replicas: int = 1
) -> PretrainingData:
    """Opens and decodes the images.

    They are stored at the side of the larger network's input, but not larger than the largest of
    them. Which ones are held out is decided by a hash of each id, whatever other images there are.

    Args:
        settings: of the pretraining.
        begun: what it was begun with, where an epoch is done.
        replicas: devices that train together.

    Raises:
        UserError: where there are no images, some cannot be read, one is also in the test set,
            they are not those of the beginning, or so many devices cannot share them.
    """
    with ExitStack() as opened:
        source = opened.enter_context(_open(settings))
        # Before any image is read: its path may be wrong.
        tests = opened.enter_context(_open_tests(settings)) if settings.test_data_dir else None
        # Before all are read: what too few images cannot do, fewer cannot.
        _refuse_shares(settings, _held_out(source.train.ids, settings), replicas)
        ids = _readable(source, source.train.ids, settings)
        held = _held_out(ids, settings)
        _refuse_shares(settings, held, replicas)
        if tests:
            _refuse_test_images(source, ids, tests, settings)
        contents = compare_contents(settings, source, ids, begun)
        side = min(max(settings.image_size, settings.teacher_size), _largest_side(source, ids))
        images = open_image_store(source, ids, side, settings.cache_path, store="auto")
        if images.streamed:
            opened.pop_all()  # read from until the process ends
    train, heldout = (
        Subset(images, rows, np.zeros(len(rows), np.int32))
        for rows in (np.flatnonzero(~held), np.flatnonzero(held))
    )
    logging.info(
        "%d images to learn from, %d held out, stored at %d px", len(train), len(heldout), side
    )
    return PretrainingData(train, heldout, contents)


def _held_out(ids: Sequence[str], settings: Pretraining) -> np.ndarray:
    """Whether each image is held out, bool `[N]`.

    Raises:
        UserError: where all are, or none.
    """
    keys = np.array([image_key(image_id) for image_id in ids], np.int64)
    if settings.heldout_parts:
        # For such fractions alone: older versions held out the same images.
        held = keys % settings.heldout_parts == 0
    else:
        held = keys % _UNIFORM < settings.heldout_fraction * _UNIFORM
    if held.all() or not held.any():
        raise UserError(
            f"--heldout_fraction={settings.heldout_fraction:g} of {len(ids)} images leaves none to "
            "hold out, or none to learn from. Give more images, or another fraction."
        )
    return held


def _refuse_shares(settings: Pretraining, held: np.ndarray, replicas: int) -> None:
    size, heldout = settings.batch_size, int(np.count_nonzero(held))
    refuse_batch(f"--batch_size={size}", size, replicas, len(held) - heldout)
    refuse_few("held-out", heldout, replicas, "--heldout_fraction")


def _open(settings: Pretraining) -> Source:
    cache, encoding = str(settings.cache_path), settings.archive_encoding
    if settings.dataset == "folder":
        return open_unlabelled(settings.data_dir, cache, encoding)
    kind = kind_of(settings.dataset, settings.data_dir, settings.train_list)
    return open_source(
        kind,
        data_dir=settings.data_dir,
        train_list=settings.train_list,
        scratch=cache,
        archive_encoding=encoding,
    )


def _open_tests(settings: Pretraining) -> Source:
    try:
        return open_unlabelled(
            settings.test_data_dir, str(settings.cache_path), settings.archive_encoding
        )
    except UserError as error:
        raise UserError(f"--test_data_dir={settings.test_data_dir}: {error}") from error


def _readable(source: Source, ids: Sequence[str], settings: Pretraining) -> list[str]:
    """The images that can be read; all are read before hours are spent on some of them.

    Raises:
        UserError: names those that cannot be, where they are not to be left out, or are all.
    """
    bad = scan_images(source, ids, settings.cache_path).bad
    if not bad:
        return list(ids)
    unreadable = list_unreadable([reason(source, image_id) for image_id in bad])
    if settings.on_bad_image == "stop":
        raise UserError(
            f"{unreadable}\nFix or remove them, or leave them out with --on_bad_image=skip."
        )
    if len(bad) == len(ids):
        raise UserError(f"{unreadable}\nThese are all images of {settings.data_dir}: give others.")
    logging.warning("%s\nThey are left out of %d images", unreadable, len(ids))
    left_out = set(bad)
    return [image_id for image_id in ids if image_id not in left_out]


def _largest_side(source: Source, ids: Sequence[str]) -> int:
    """The longest side of some images spread over all of them, in pixels."""
    step = max(1, len(ids) // _SAMPLE)
    return max(max(source.read_image(image_id).shape[:2]) for image_id in ids[::step])


def _refuse_test_images(
    source: Source, ids: Sequence[str], tests: Source, settings: Pretraining
) -> None:
    """A student must not learn from what it will be tested on, not even without labels."""
    ours = scan_images(source, ids, settings.cache_path)
    tested = scan_images(tests, tests.train.ids, settings.cache_path)
    shared = shared_ids(ours, tested)
    if shared:
        raise UserError(
            f"{len(shared)} of the images are also in --test_data_dir={settings.test_data_dir}, "
            f"e.g. {shared[0]}. Take them out: what is learned from cannot be tested on."
        )

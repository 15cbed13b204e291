"""Computes the cached images and teacher features of a run before it, on any number of machines.

cache_features(config, Shard(2, 8))       # the second of eight ranges of each array's rows
"""

import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from absl import logging

from candle_tf.config import Config
from candle_tf.data.cached_arrays import Shard
from candle_tf.run_folder import RunFolder
from candle_tf.stages.calibrate import cache_all_features, open_teacher
from candle_tf.stages.prepare import prepare
from candle_tf.stages.run_place import refuse_run_among_images


def cache_features(config: Config, shard: Shard) -> None:
    """Computes a shard of the features, and with others the decoded images, in the cache folder.

    The run folder is read, if there is one, for its split; nothing is written into it but the cache
    where no --cache_dir is given.

    Args:
        config: the run's settings.
        shard: of the features' rows. Decoded images are shared out among all that run at once.

    Raises:
        UserError: for data or a teacher that cannot be used, or a disk that is too small.
    """
    refuse_run_among_images(config)
    with TemporaryDirectory() as scratch:
        folder = _copy_of_records(RunFolder(Path(config.run.run_dir)), Path(scratch))
        data = prepare(config, folder)
        if config.training.distils:
            cache_all_features(config, data, open_teacher(config, data), shard)
        else:
            logging.info("--method=%s needs no teacher features", config.training.method)


def _copy_of_records(run: RunFolder, scratch: Path) -> RunFolder:
    """A folder with the run's split: the run's own may be locked by the run itself."""
    copy = RunFolder(scratch)
    for path, target in (
        (run.split_path, copy.split_path),
        (run.data_check_path, copy.data_check_path),
    ):
        if path.exists():
            shutil.copyfile(path, target)
    return copy

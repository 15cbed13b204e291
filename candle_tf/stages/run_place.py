"""Where a run may write: not among the class folders that it reads.

refuse_run_among_images(config)      # before anything is written
"""

import os
from pathlib import Path

from candle_tf.config import Config
from candle_tf.data.sources.file_tree import is_visible
from candle_tf.errors import UserError


def refuse_run_among_images(config: Config) -> None:
    """Refuses a --run_dir or --cache_dir inside a --data_dir whose folders are classes.

    What a run writes there would be read as a class, or as files of one. Lists, IDX files and
    TensorFlow Datasets name their files: folders beside them do not matter.

    Raises:
        UserError: with both paths, and what to do.
    """
    images = Path(config.data.data_dir)
    if config.data.kind != "folder" or not images.is_dir():
        return
    for name, place in (("run_dir", config.run.run_dir), ("cache_dir", config.run.cache_dir)):
        folder = Path(place)
        if place and _lists(images, folder):
            raise UserError(
                f"--{name}={place} ({folder.resolve()}) is inside "
                f"--data_dir={config.data.data_dir} ({images.resolve()}), where folders are "
                f"classes of images. Give a --{name} outside of it, or move the images into a "
                "folder of their own and give that as --data_dir. A run that has begun can be "
                "moved."
            )


def _lists(images: Path, folder: Path) -> bool:
    """Whether a list of the visible folders below `images` has another folder, or would have it.

    Links are followed in such a list, so both the path as given and its target count.
    """
    for path in (Path(os.path.abspath(folder)), folder.resolve()):
        for root in (Path(os.path.abspath(images)), images.resolve()):
            if path.is_relative_to(root) and all(map(is_visible, path.relative_to(root).parts)):
                return True
    return False

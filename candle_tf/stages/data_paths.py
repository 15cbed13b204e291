"""Paths of images and lists that do not exist, told before TensorFlow is imported.

require_data_paths(config)
"""

from pathlib import Path

from candle_tf.config import Config
from candle_tf.data.settings import LISTS
from candle_tf.errors import UserError

_NAMES = ("data_dir", *LISTS, "unlabelled_dir")


def require_data_paths(config: Config) -> None:
    """Refuses paths of images and lists where nothing is.

    The folder of TensorFlow Datasets is left to them, as they may make it.

    Raises:
        UserError: with the flag, the path, and the folder that it is relative to.
    """
    for name in _NAMES:
        given = config[name]
        if not given or (name == "data_dir" and config.data.kind.startswith("tfds")):
            continue
        if not Path(given).exists():
            here = "" if Path(given).is_absolute() else f" in {Path.cwd()}"
            raise UserError(f"--{name}={given} does not exist{here}. Give another path.")

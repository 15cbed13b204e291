"""All images of a folder, ZIP or TAR, whatever folders they are in.

with open_unlabelled("images.zip") as source:
    source.read_image(source.train.ids[0])            # uint8 [H, W, 3]
"""

from pathlib import Path

import numpy as np

from candle_tf.data.sources.archives import open_tree
from candle_tf.data.sources.file_tree import EXTENSIONS, is_image, tree_source
from candle_tf.data.sources.other_files import describe_other_files, warn_of_other_files
from candle_tf.data.sources.source import LabelledImages, Source
from candle_tf.errors import UserError

_LAYOUT = f"Expected images named *{', *'.join(EXTENSIONS)} in a folder, a ZIP or a TAR file."


def open_unlabelled(
    path: str, scratch: str = "", archive_encoding: str = "", *, warns: bool = True
) -> Source:
    """Opens the images; all are in `Source.train`, sorted by path, with the label 0.

    Args:
        path: of the folder or archive.
        scratch: as in `SourceConfig`.
        archive_encoding: as in `SourceConfig`.
        warns: whether files that are not read as images are told of.

    Raises:
        UserError: where there is none, or no image in it.
    """
    if not path:
        raise UserError(f"No path of images was given. {_LAYOUT}")
    tree = open_tree(Path(path).expanduser(), _LAYOUT, scratch, archive_encoding)
    ids = tuple(sorted(filter(is_image, tree.files)))
    if not ids:
        tree.close()
        raise UserError(
            f"{path}: no images found, but {describe_other_files(tree.files)}. {_LAYOUT}"
        )
    if warns:
        warn_of_other_files(tree)
    # The name of labelled folders: the same images have the same caches.
    images = LabelledImages(ids, np.zeros(len(ids), np.int32))
    return tree_source("folder", ("any",), {"train": images}, tree)

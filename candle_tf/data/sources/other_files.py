"""Files beside images: what has no image's extension is not read, and that is told.

warn_of_other_files(folder_tree(Path("photos")))
# photos: 3 files that are not read as images (2 .tif, 1 .txt) are left out, e.g. ...
"""

from collections import Counter
from collections.abc import Iterable
from pathlib import PurePosixPath

from absl import logging

from candle_tf.data.sources.file_tree import EXTENSIONS, FileTree, is_image

_SHOWN = 3
_NAMES = f"Images are named *{', *'.join(EXTENSIONS)}"


def describe_other_files(names: Iterable[str]) -> str:
    """E.g. "3 files that are not read as images (2 .tif, 1 .txt)", or "no other files".

    Args:
        names: paths of files; images among them are not counted.
    """
    others = (name for name in names if not is_image(name))
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without extension" for name in others)
    shown = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(5))
    more = f", {len(kinds) - 5} more kinds" if len(kinds) > 5 else ""
    if not kinds:
        return "no other files"
    return f"{kinds.total()} files that are not read as images ({shown}{more})"


def warn_of_other_files(tree: FileTree) -> None:
    """Logs one warning that counts the visible files that are not read, and names the first.

    It is no error: they may be labels or notes. They may as well be images in a format that is not
    decoded, such as TIFF, which nobody would miss in a long list.
    """
    others = sorted(name for name in tree.files if not is_image(name))
    if others:
        logging.warning(
            "%s: %s are left out, e.g. %s. %s: save others that are images as PNG",
            tree.path,
            describe_other_files(others),
            ", ".join(map(repr, others[:_SHOWN])),
            _NAMES,
        )

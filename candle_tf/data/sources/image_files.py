"""Image files to classify: single files, folders and archives, in order.

with open_image_files(["cat.jpg", "photos/", "more.zip"]) as files:
    [file.name for file in files]
    files[0].read()                                   # the bytes
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from candle_tf.data.sources.archives import is_archive, open_tree
from candle_tf.data.sources.file_tree import folder_tree, is_image, read_file
from candle_tf.errors import UserError
from candle_tf.files import expand_home

_ADVICE = "Give image files, folders of them, or ZIP or TAR files."


@dataclass(frozen=True)
class ImageFile:
    """One image.

    Attributes:
        name: its path as given; in a folder or an archive, that path and the file's in it.
        read: gives its bytes; may be called from several threads at once. Raises `UserError` where
            they cannot be read.
    """

    name: str
    read: Callable[[], bytes]


@contextmanager
def open_image_files(
    paths: Sequence[str | Path], archive_encoding: str = ""
) -> Iterator[list[ImageFile]]:
    """Lists images; what has no image's extension in folders and archives is passed over.

    In a folder, names may be of any bytes: see `folder_tree`.

    Args:
        paths: files, folders and ZIP or TAR archives. A file that is named is an image whatever its
            name is, unless it is an archive.
        archive_encoding: of names in archives that are not UTF-8, see `SourceConfig`.

    Raises:
        UserError: where a path does not exist or an archive is damaged, and where there is no image
            at all.
    """
    with ExitStack() as opened:
        files: list[ImageFile] = []
        for given in paths:
            path = Path(expand_home(str(given)))
            if path.is_file() and (is_image(path.name) or not is_archive(path)):
                files.append(ImageFile(str(path), _reader(read_file, path)))
                continue
            if path.is_dir():
                tree = folder_tree(path, any_bytes=True)
            else:
                tree = open_tree(path, _ADVICE, encoding=archive_encoding)
            opened.callback(tree.close)
            files += [
                ImageFile(f"{path}/{name}", _reader(tree.read, name))
                for name in tree.files
                if is_image(name)
            ]
        if not files:
            raise UserError(f"There is no image in {', '.join(map(str, paths))}. {_ADVICE}")
        yield files


def _reader(read: Callable[..., bytes], name: object) -> Callable[[], bytes]:
    return lambda: read(name)

"""Image files to classify: single files, folders and archives, in order.

with open_image_files(["cat.jpg", "photos/", "more.zip"]) as files:
    [file.name for file in files]
    files[0].read()                                   # the bytes
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from candle_tf.data.sources.archives import is_archive, open_tree
from candle_tf.data.sources.file_tree import (
    MAX_FILE_BYTES,
    check_size,
    find_on_disk,
    folder_tree,
    is_image,
    read_file,
)
from candle_tf.data.sources.other_files import describe_other_files, warn_of_other_files
from candle_tf.errors import UserError
from candle_tf.files import require_path

_ADVICE = "Give image files, folders of them, or ZIP or TAR files."


@dataclass(frozen=True)
class ImageFile:
    """One image.

    Attributes:
        name: its path as given; in a folder or an archive, that path and the file's in it.
        read: gives its bytes; may be called from several threads at once. Raises `UserError` where
            they cannot be read.
        place: the file on disk that they are in, which may be an archive.
    """

    name: str
    read: Callable[[], bytes]
    place: Path


@contextmanager
def open_image_files(
    paths: Sequence[str | Path], archive_encoding: str = ""
) -> Iterator[list[ImageFile]]:
    """Lists images; what has no image's extension in folders and archives is left out.

    A warning tells of it. In a folder, names may be of any bytes: see `folder_tree`.

    Args:
        paths: files, folders and ZIP or TAR archives. A file that is named is an image whatever its
            name is, unless it is an archive. What is no file, such as a pipe or /dev/stdin, is one
            image, and is read at once.
        archive_encoding: of names in archives that are not UTF-8, see `SourceConfig`.

    Raises:
        UserError: where a path is empty, too long or does not exist or an archive is damaged, and
            where there is no image at all.
    """
    with ExitStack() as opened:
        files: list[ImageFile] = []
        others: list[str] = []
        for given in paths:
            path = require_path(given, _ADVICE)
            if path.is_file() and (is_image(path.name) or not is_archive(path)):
                files.append(ImageFile(str(path), _reader(read_file, path), path))
                continue
            if path.exists() and not path.is_file() and not path.is_dir():
                files.append(ImageFile(str(path), _reader(bytes, _read_stream(path)), path))
                continue
            is_folder = path.is_dir()
            if is_folder:
                tree = folder_tree(path, any_bytes=True)
            else:
                tree = open_tree(path, _ADVICE, encoding=archive_encoding)
            opened.callback(tree.close)
            warn_of_other_files(tree)
            others += tree.files
            files += [
                ImageFile(
                    f"{path}/{name}",
                    _reader(tree.read, name),
                    find_on_disk(path, name) if is_folder else path,
                )
                for name in tree.files
                if is_image(name)
            ]
        if not files:
            raise UserError(
                f"There is no image in {', '.join(map(str, paths))}, but "
                f"{describe_other_files(others)}. {_ADVICE}"
            )
        yield files


def refuse_inputs_as_outputs(files: Sequence[ImageFile], outputs: Sequence[Path]) -> None:
    """Refuses outputs that would replace what is read, also by links.

    Args:
        files: the images.
        outputs: paths that will be written.

    Raises:
        UserError: names the first.
    """
    # What is no file, such as a terminal, is not replaced.
    there = {_identity(path): path for path in outputs if path.is_file()}
    # An archive is the place of many images.
    for place in dict.fromkeys(file.place for file in files) if there else ():
        if place.exists() and (output := there.get(_identity(place))):
            raise UserError(
                f"{output} is to be classified, and the output of that name would replace it. Give "
                "the output another name."
            )


def _identity(path: Path) -> tuple[int, int]:
    state = os.stat(path)
    return state.st_dev, state.st_ino


def _read_stream(path: Path) -> bytes:
    """All that comes from a pipe or a device, up to what an image may have."""
    try:
        with path.open("rb") as stream:
            content = stream.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}). {_ADVICE}") from error
    check_size(len(content), str(path))
    return content


def _reader(read: Callable[..., bytes], name: object) -> Callable[[], bytes]:
    return lambda: read(name)

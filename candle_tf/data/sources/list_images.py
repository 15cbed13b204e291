"""The images of lists: files of the folder or archive that the paths of a list are relative to."""

import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from candle_tf.data.sources.archives import open_tree
from candle_tf.data.sources.file_tree import (
    EXTENSIONS,
    FileTree,
    below,
    file_change_token,
    find_on_disk,
    is_image,
    read_file,
    wrapping_folder,
)
from candle_tf.data.sources.list_entries import Entries, unknown_header
from candle_tf.data.sources.source import SourceConfig
from candle_tf.errors import UserError

# So many images of a list are searched in a folder before training is prepared.
_FIRST_IMAGES = 20


def images_of_lists(config: SourceConfig, lists: dict[str, Entries]) -> FileTree:
    """The listed images as a tree.

    A folder is not walked, which would be slow for millions of files. The names in an archive are
    known, so a missing one is an error at once.

    Raises:
        UserError: If there is no such folder or archive, or an archive lacks a listed image.
    """
    root = Path(config.data_dir).expanduser()
    if root.exists() and not root.is_dir():
        tree = open_tree(root, scratch=config.scratch, encoding=config.archive_encoding)
        try:
            return _tree_of_the_lists(tree, lists)
        except BaseException:
            tree.close()
            raise
    if not root.is_dir():
        raise UserError(f"{root} does not exist. Give the folder or archive that lists refer to.")
    known = frozenset(path for entries in lists.values() for path in entries.paths)

    def path_of(name: str) -> Path:
        if name not in known:
            raise KeyError(name)
        return find_on_disk(root, name)

    return FileTree(
        str(root),
        (),
        frozenset(),
        lambda name: read_file(path_of(name)),
        lambda name: file_change_token(path_of(name)),
        lambda: None,
    )


def _tree_of_the_lists(tree: FileTree, lists: dict[str, Entries]) -> FileTree:
    """An archive with the names that the lists use: as packed, or below its one top folder."""
    packed = frozenset(tree.files)
    if all(path in packed for entries in lists.values() for path in entries.paths):
        return tree
    inside = below(tree, wrapping_folder(tree))
    unpacked = frozenset(inside.files)
    # If neither fits, the names that fit more of the first list are those to tell about.
    some = next(iter(lists.values())).paths
    if sum(path in unpacked for path in some) >= sum(path in packed for path in some):
        tree, packed = inside, unpacked
    for entries in lists.values():
        missing = [path for path in entries.paths if path not in packed]
        if missing:
            first = entries.paths.index(missing[0])
            hint = _with_extension(missing[0], packed.__contains__)
            raise UserError(
                f"{entries.location(first)}: {tree.path} has no {missing[0]!r} "
                f"(missing images of this list: {len(missing)}). "
                + (f"It has {hint!r}: write" if hint else "Give the archive of the list.")
                + (" paths with their extensions." if hint else "")
            )
    return tree


def check_first_names(tree: FileTree, lists: dict[str, Entries]) -> None:
    """Checks the first images of each list in a folder, which is not walked.

    Raises:
        UserError: If they are ids without extensions, or all are missing.
    """
    if tree.files:
        return
    root = Path(tree.path)

    def exists(name: str) -> bool:
        return os.path.exists(find_on_disk(root, name))

    for entries in lists.values():
        for i, path in enumerate(entries.paths[:2]):
            if is_image(path) or exists(path):
                continue
            if hint := _with_extension(path, exists):
                raise UserError(
                    f"{entries.location(i)}: {tree.path} has no {path!r}, but {hint!r}. Write "
                    "paths with their extensions."
                )
            if i == 0 and len(entries.paths) > 1 and (
                exists(entries.paths[1]) or _with_extension(entries.paths[1], exists)
            ):  # fmt: skip
                raise unknown_header(entries)
        # Splits can be drawn where the images are not, in a folder of lists alone.
        if not any(map(exists, entries.paths[:_FIRST_IMAGES])) and _holds_images(root):
            raise _missing_images(entries, root)


def _holds_images(root: Path) -> bool:
    """Whether a folder has images or folders, which may hold some."""
    with os.scandir(root) as found:
        return any(is_image(entry.name) or entry.is_dir() for entry in found)


def _missing_images(entries: Entries, root: Path) -> UserError:
    """None of the first images of a list is in the folder."""
    first = entries.paths[0]
    more = min(len(entries.paths), _FIRST_IMAGES) - 1
    nor = f", nor the next {more} images of the list" if more else ""
    hint = "Give as --data_dir the folder that the paths are relative to."
    for suffix in (PurePosixPath(first).suffix.lower(), PurePosixPath(first).suffix.upper()):
        other = str(PurePosixPath(first).with_suffix(suffix))
        if find_on_disk(root, other).exists():
            hint = f"It has {other!r}: write extensions as the files have them."
    if (root.resolve().parent / first).exists():
        hint = f"Give --data_dir={root.parent}, which has it."
    return UserError(f"{entries.location(0)}: {root} has no {first!r}{nor}. {hint}")


def _with_extension(path: str, exists: Callable[[str], bool]) -> str:
    """The image that a path without extension may stand for, or ""."""
    if is_image(path):
        return ""
    names = (path + extension for extension in EXTENSIONS)
    return next((name for name in names if exists(name)), "")

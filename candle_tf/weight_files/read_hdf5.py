"""Reads all of an HDF5 file; run by path, so that nothing else of the package is imported.

python read_hdf5.py resnet152_notop.h5      exit code 1, with the reason, where it cannot be read

What would be read from another file is refused, and so are arrays of more numbers than a file of
that size can hold.
"""

import resource
import sys
from collections.abc import Iterator
from pathlib import Path

import h5py

# Keras does not compress; weights of others shrink by less.
_MOST_COMPRESSION = 16
# Beyond what the file itself takes.
_MEMORY = 8 * 2**30


def read_all(file: h5py.File, size: int) -> None:
    """Reads every attribute and array.

    Args:
        file: open.
        size: of the file in bytes.

    Raises:
        ValueError: names what is refused.
        Exception: whatever h5py raises on a damaged file.
    """
    stated = 0
    for name, group in _groups_of(file):
        list(group.attrs.items())
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise ValueError(f"{name}{key} is a link to another file")
            item = group[key]
            if isinstance(item, h5py.Dataset):
                stated += _check_array(item, f"{name}{key}")
                if stated > _MOST_COMPRESSION * size:
                    raise ValueError(
                        f"{name}{key} states more numbers than a file of {size} bytes has"
                    )
                list(item.attrs.items())
                item[()]


def _check_array(item: h5py.Dataset, name: str) -> int:
    """The bytes that an array states."""
    if item.external or item.is_virtual:
        raise ValueError(f"the numbers of {name} are in another file")
    if item.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds no real numbers")
    return int(item.size or 0) * int(item.dtype.itemsize)


def _groups_of(file: h5py.File) -> Iterator[tuple[str, h5py.Group]]:
    """All groups, each once, with their names and "/"; links in circles end."""
    waiting, seen = [("", file)], set()
    while waiting:
        name, group = waiting.pop()
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            continue
        seen.add(address)
        yield name, group
        for key in group:
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.HardLink) and isinstance(item := group[key], h5py.Group):
                waiting.append((f"{name}{key}/", item))


def main(path: str) -> None:
    size = Path(path).stat().st_size
    limit = _MEMORY + 2 * size
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        with h5py.File(path, "r") as file:
            read_all(file, size)
    except Exception as error:
        sys.exit(str(error).strip() or type(error).__name__)


if __name__ == "__main__":
    main(sys.argv[1])

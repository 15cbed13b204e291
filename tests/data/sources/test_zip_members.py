"""Members of a ZIP by every compression method, honest and not."""

import struct
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from candle_tf.data.sources.registry import open_source
from candle_tf.errors import UserError
from tests.data.sources.test_registry import tree

METHODS = [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA]
COMPRESSING = METHODS[1:]
NAMES = ("ant/1.png", "bee/2.png", "bee/3.png")
# Places in the record of a member in the central directory.
METHOD, CHECKSUM, SIZE = (10, "<H"), (16, "<L"), (24, "<L")
# Bytes of a bomb, and of memory that refusing it may take.
LARGE, LITTLE = 2**26, 2**22


def write(root: Path, files: dict[str, bytes], method: int) -> Path:
    path = root / "data.zip"
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def state(path: Path, field: tuple[int, str], value: int) -> None:
    """Changes what the central directory states of the first member."""
    data = bytearray(path.read_bytes())
    struct.pack_into(field[1], data, data.index(b"PK\x01\x02") + field[0], value)
    path.write_bytes(data)


@pytest.mark.parametrize("method", METHODS)
def test_members_of_every_method_are_read(tmp_path, method):
    files = tree(*NAMES) | {"bee/3.png": b""}
    with open_source("folder", str(write(tmp_path, files, method))) as source:
        assert {name: source.read_bytes(name) for name in NAMES} == files


@pytest.mark.parametrize("method", COMPRESSING)
def test_a_member_that_states_too_few_bytes_takes_no_more_memory(tmp_path, method):
    path = write(tmp_path, tree(*NAMES) | {NAMES[0]: bytes(LARGE)}, method)
    state(path, SIZE, 100)
    with open_source("folder", str(path)) as source:
        tracemalloc.start()
        try:
            with pytest.raises(UserError, match=r"data\.zip: the member 'ant/1\.png' cannot be un"):
                source.read_bytes(NAMES[0])
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert peak < LITTLE
        assert source.read_image(NAMES[1])[0, 0, 0] == 1


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize(("field", "change"), [(SIZE, 1), (SIZE, -1), (CHECKSUM, 1)])
def test_a_member_with_another_size_or_checksum_is_damaged(tmp_path, method, field, change):
    files = tree(*NAMES)
    path = write(tmp_path, files, method)
    with zipfile.ZipFile(path) as archive:
        member = archive.infolist()[0]
    state(path, field, (member.file_size if field == SIZE else member.CRC) + change)
    with open_source("folder", str(path)) as source:
        with pytest.raises(UserError, match=r"ant/1\.png' cannot be unpacked.*stated"):
            source.read_bytes(NAMES[0])
        assert source.read_bytes(NAMES[1]) == files[NAMES[1]]


def test_a_large_dictionary_takes_no_memory(tmp_path):
    files = tree(*NAMES)
    path = write(tmp_path, files, zipfile.ZIP_LZMA)
    data = bytearray(path.read_bytes())
    # After the name: 2 bytes of version, 2 of length, 1 of properties, 4 of the dictionary's size.
    begin = data.index(NAMES[0].encode()) + len(NAMES[0])
    assert data[begin + 2 : begin + 4] == b"\5\0"
    data[begin + 5 : begin + 9] = b"\xff" * 4
    path.write_bytes(data)
    with open_source("folder", str(path)) as source:
        assert source.read_bytes(NAMES[0]) == files[NAMES[0]]


@pytest.mark.parametrize("method", COMPRESSING)
def test_packed_bytes_that_are_none_are_damage(tmp_path, method):
    path = write(tmp_path, tree(*NAMES), method)
    data = bytearray(path.read_bytes())
    begin = data.index(NAMES[0].encode()) + len(NAMES[0])
    data[begin : begin + 30] = b"\xff" * 30
    path.write_bytes(data)
    with (
        open_source("folder", str(path)) as source,
        pytest.raises(UserError, match=r"ant/1\.png' cannot be unpacked"),
    ):
        source.read_bytes(NAMES[0])


def test_another_method_is_named(tmp_path):
    path = write(tmp_path, tree(*NAMES), zipfile.ZIP_DEFLATED)
    state(path, METHOD, 93)
    with (
        open_source("folder", str(path)) as source,
        pytest.raises(UserError, match="compression method, 93, is none of Deflate, bzip2 and LZ"),
    ):
        source.read_bytes(NAMES[0])

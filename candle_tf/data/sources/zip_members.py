"""Members of a ZIP, unpacked to no more bytes than the archive states.

    data = read_member(archive, archive.infolist()[0], "images.zip: cat/1.png")

The standard library gives bzip2 and LZMA no limit: it would unpack a gigabyte of a member that
states 100 bytes. These two are therefore unpacked here.
"""

import bz2
import copy
import lzma
import zipfile
import zlib

from candle_tf.data.sources.file_tree import check_ratio, check_size

# Unpacked by the standard library as far as they are read.
_BOUNDED = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# Of LZMA in a ZIP: two bytes of version, two with the length of what follows, and the properties,
# which end with the size of the dictionary.
_LZMA_BEGIN, _LZMA_DICTIONARY, _LZMA_END = 4, 5, 9
_SMALLEST_DICTIONARY = 4096


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, origin: str) -> bytes:
    """The unpacked bytes of a member.

    Args:
        archive: open for reading.
        member: one of its `infolist()`.
        origin: for messages.

    Raises:
        UserError: if it is too large for an image, or grows too much.
        zipfile.BadZipFile, NotImplementedError, and what decompressors raise: if it is damaged, or
            packed by a method other than Deflate, bzip2 and LZMA.
    """
    check_size(member.file_size, origin)
    check_size(member.compress_size, origin)
    check_ratio(member.file_size, member.compress_size, origin)
    if member.compress_type in _BOUNDED:
        with archive.open(member) as stream:
            return stream.read(member.file_size)
    data = _unpack(_read_packed(archive, member), member)
    if len(data) != member.file_size or zlib.crc32(data) != member.CRC:
        raise zipfile.BadZipFile(
            f"it does not unpack to the {member.file_size:,} bytes and the checksum that are stated"
        )
    return data


def _read_packed(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    """The bytes as they are in the archive."""
    packed = copy.copy(member)
    packed.compress_type = zipfile.ZIP_STORED
    packed.file_size = member.compress_size
    del packed.CRC  # of the unpacked bytes
    with archive.open(packed) as stream:
        return stream.read(packed.file_size)


def _unpack(packed: bytes, member: zipfile.ZipInfo) -> bytes:
    """At most one byte more than is stated."""
    limit = member.file_size + 1
    if member.compress_type == zipfile.ZIP_BZIP2:
        return bz2.BZ2Decompressor().decompress(packed, limit)
    if member.compress_type == zipfile.ZIP_LZMA:
        # The same as a .lzma file of unknown length, but for the beginning. A dictionary beyond the
        # unpacked bytes would be memory without a use.
        stated = int.from_bytes(packed[_LZMA_DICTIONARY:_LZMA_END], "little")
        dictionary = min(stated, max(limit, _SMALLEST_DICTIONARY))
        head = packed[_LZMA_BEGIN:_LZMA_DICTIONARY] + dictionary.to_bytes(4, "little") + b"\xff" * 8
        return lzma.LZMADecompressor(lzma.FORMAT_ALONE).decompress(head + packed[_LZMA_END:], limit)
    raise NotImplementedError(
        f"its compression method, {member.compress_type}, is none of Deflate, bzip2 and LZMA"
    )

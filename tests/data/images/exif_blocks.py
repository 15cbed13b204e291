"""Seeded EXIF blocks, sound and damaged, and files that carry them or have flipped bytes.

python -m tests.data.images.exif_blocks --blocks 5000 --flips 20000       counts what happens
"""

import argparse
import io
import struct
from collections import Counter
from collections.abc import Iterator

import numpy as np
from PIL import Image

from candle_tf.data.images.decode import decode_image
from candle_tf.errors import UserError

_ORIENTATION = 0x0112
_TAGS = (0x010F, 0x011A, 0x011B, 0x0128, 0x0132, 0x8769, 0x8825, 0x927C, _ORIENTATION)
_KINDS = ("JPEG", "PNG", "WEBP")


def exif_block(random: np.random.Generator) -> bytes:
    """A TIFF structure with wrong types, counts, offsets, byte orders or ends."""
    order = random.choice(["<", ">"])
    entries = b""
    count = int(random.integers(0, 6))
    for tag in [*random.choice(_TAGS, count), _ORIENTATION][: count + int(random.integers(2))]:
        kind = 3 if random.random() < 0.5 else int(random.integers(0, 15))
        values = 1 if random.random() < 0.6 else int(random.integers(0, 2**32))
        value = int(random.choice([1, 6, 8, 0, 9, int(random.integers(2**32))]))
        content = struct.pack(f"{order}HH", value & 0xFFFF, 0)
        if random.random() < 0.3:
            content = struct.pack(f"{order}I", value)
        entries += struct.pack(f"{order}HHI", int(tag), kind, values) + content
    stated = len(entries) // 12 if random.random() < 0.8 else int(random.integers(2**16))
    offset = 8 if random.random() < 0.8 else int(random.integers(2**32))
    mark = b"II*\0" if order == "<" else b"MM\0*"
    if random.random() < 0.1:
        mark = random.bytes(4)
    block = mark + struct.pack(f"{order}IH", offset, stated) + entries + random.bytes(8)
    return block[: int(random.integers(len(block)))] if random.random() < 0.2 else block


def sample_image() -> Image.Image:
    """A gradient, 12 x 7, that no rotation or mirroring leaves as it is."""
    y, x = np.mgrid[:7, :12]
    return Image.fromarray(np.stack([20 * x, 30 * y, 5 * (x + y)], -1).astype(np.uint8))


def file_with(block: bytes, kind: str) -> bytes:
    """An image file of a kind of `_KINDS` with an EXIF block."""
    buffer = io.BytesIO()
    exif = block if kind == "PNG" else b"Exif\0\0" + block
    sample_image().save(buffer, kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {}))
    return buffer.getvalue()


def files_with_blocks(count: int, seed: int = 0) -> Iterator[tuple[str, bytes]]:
    """Yields (kind, file); their pixels are sound, so each has to be decoded."""
    random = np.random.default_rng(seed)
    for number in range(count):
        kind = _KINDS[number % len(_KINDS)]
        yield kind, file_with(exif_block(random), kind)


def files_with_flips(count: int, seed: int = 0) -> Iterator[bytes]:
    """Yields files of all kinds with 1 to 8 bytes replaced."""
    random = np.random.default_rng([seed, 1])
    sound = [file_with(exif_block(random), kind) for kind in _KINDS * 3]
    for kind in ("BMP", "GIF"):
        buffer = io.BytesIO()
        sample_image().save(buffer, kind)
        sound.append(buffer.getvalue())
    for number in range(count):
        data = bytearray(sound[number % len(sound)])
        for place in random.integers(0, len(data), int(random.integers(1, 9))):
            data[place] = random.integers(256)
        yield bytes(data)


def count_outcomes(blocks: int, flips: int) -> Counter[str]:
    """How many files were decoded, and how many refused with the file's name."""
    outcomes: Counter[str] = Counter()
    for what, files in (
        ("EXIF block", (data for _, data in files_with_blocks(blocks))),
        ("byte flips", files_with_flips(flips)),
    ):
        for data in files:
            try:
                decode_image(data, "cats/7.jpg")
                outcomes[f"{what}: decoded"] += 1
            except UserError as error:
                named = str(error).startswith("cats/7.jpg: ")
                outcomes[f"{what}: {'refused' if named else 'without a name'}"] += 1
    return outcomes


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--blocks", type=int, default=5000)
    parser.add_argument("--flips", type=int, default=20_000)
    given = parser.parse_args()
    for outcome, number in count_outcomes(given.blocks, given.flips).items():
        print(f"{outcome} {number:,}")
